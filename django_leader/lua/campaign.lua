-- One attempt of a candidate to lead. Also tells Redis that it takes part, and when it counts as gone.
--
-- KEYS  1 lock        string, PX   me of the holder
--       2 info        string, PX   LeaderInfo as JSON
--       3 state       hash         token, holder, until (server's ms), ttl (ms), released (token)
--       4 candidates  zset, PX     me -> server's ms up to which it counts
--       5 events      stream       the history
--       6 wake        list, PX     one element for each follower to wake: its place, 0 or 1
-- ARGV  1 echo   2 me   3 ttl, ms   4 floor: the highest token that the candidate has seen
--       5 info: a JSON object without the token   6 ms for which the candidate counts without a sign of life
-- Reply {echo, verdict, token, holder, ms left of the lease, candidates, twin}
--       verdict 'granted': the lease is the candidate's, with this token
--               'held':    holder has it, for so many ms
--       twin: me of another candidate with the same instance id, told once, when this one joins; or ''
-- A lock key that is gone before its time (evicted, deleted) frees nothing: its holder may still lead until then.
-- Granted also when the lock already says me: the reply to that grant was lost, so nobody leads by it.
local me, ttl = ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local holder = redis.call('GET', KEYS[1])
local last = redis.call('HMGET', KEYS[3], 'token', 'released', 'holder', 'until')
local left = redis.call('PTTL', KEYS[1])
-- A key of a wrong type is an error here, before anything is written: it is not ours, and never deleted.
redis.call('STRLEN', KEYS[2])
redis.call('XLEN', KEYS[5])
redis.call('LLEN', KEYS[6])

redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', string.format('(%.0f', now))
local joined = redis.call('ZADD', KEYS[4], string.format('%.0f', now + ARGV[6]), me)
redis.call('PEXPIRE', KEYS[4], ARGV[6])
local twin = ''
if joined == 1 then
  local id = string.sub(me, 1, -17)
  for _, other in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
    if other ~= me and string.sub(other, 1, -17) == id then twin = other end
  end
end
local candidates = redis.call('ZCARD', KEYS[4])

if not holder and last[1] and last[1] ~= last[2] and tonumber(last[4]) > now then
  holder, left = last[3], tonumber(last[4]) - now
end
if holder and holder ~= me then
  return {ARGV[1], 'held', last[1] or '0', holder, left, candidates, twin}
end

local token = math.max(tonumber(last[1] or 0), tonumber(ARGV[4])) + 1
token = string.format('%.0f', math.max(token, time[1] * 1000000 + time[2]))
local kind = 'elected'
if last[1] and last[1] ~= last[2] then kind = 'taken-over' end
redis.call('SET', KEYS[1], me, 'PX', ttl)
redis.call('SET', KEYS[2], string.sub(ARGV[5], 1, -2) .. ', "fencing_token": ' .. token .. '}', 'PX', ttl)
redis.call('HSET', KEYS[3], 'token', token, 'holder', me, 'ttl', ttl, 'until', string.format('%.0f', now + ttl))
redis.call('XADD', KEYS[5], 'MAXLEN', '~', 1000, '*', 'kind', kind, 'holder', me, 'token', token)
redis.call('DEL', KEYS[6])
return {ARGV[1], 'granted', token, me, ttl, candidates, twin}
