-- The voluntary end of a term, of taking part, or of both. Nobody's lease but the caller's own is touched.
--
-- KEYS  as in campaign.lua
-- ARGV  1 echo   2 me   3 token of the term, or '0' when the caller does not lead
--       4 reason, for the history   5 '1' when the caller takes part no longer
--       6 ms for which nobody may lead yet (0: the next one is woken at once)
-- Reply {echo, 'released' or 'nothing'}
-- Two followers are woken, those who have waited longest: one that is frozen would eat a single wake-up. Each gets
-- its place, so that the second can stay out of the first one's way. A follower that goes away while nobody leads
-- passes on the wake-up that it may have eaten.
local me, token, hold = ARGV[2], ARGV[3], tonumber(ARGV[6])
local holder = redis.call('GET', KEYS[1])
local verdict = 'nothing'
-- A key of a wrong type is an error here, before anything is written: it is not ours, and never deleted.
redis.call('STRLEN', KEYS[2])
redis.call('ZCARD', KEYS[4])
redis.call('XLEN', KEYS[5])
redis.call('LLEN', KEYS[6])

if holder == me and redis.call('HGET', KEYS[3], 'token') == token then
  verdict = 'released'
  redis.call('HSET', KEYS[3], 'released', token)
  redis.call('XADD', KEYS[5], 'MAXLEN', '~', 1000, '*', 'kind', ARGV[4], 'holder', me, 'token', token)
  if hold > 0 then
    redis.call('PEXPIRE', KEYS[1], hold)
    redis.call('PEXPIRE', KEYS[2], hold)
  else
    redis.call('DEL', KEYS[1], KEYS[2])
    holder = false
  end
end
if ARGV[5] == '1' then redis.call('ZREM', KEYS[4], me) end
if not holder and (verdict == 'released' or ARGV[5] == '1') then
  redis.call('DEL', KEYS[6])
  redis.call('RPUSH', KEYS[6], '0', '1')
  redis.call('PEXPIRE', KEYS[6], 60000)
end
return {ARGV[1], verdict}
