-- The heartbeat of a leader: its lease lasts another ttl from now on.
--
-- KEYS  as in campaign.lua
-- ARGV  1 echo   2 me   3 ttl, ms   4 token of the term   5 info: a JSON object without the token
--       6 ms for which the candidate counts without a sign of life
-- Reply {echo, verdict, token, holder, ms left of the lease, candidates, ''}
--       verdict 'renewed': token and holder are the leader's own
--               'refused': holder has the lease now ('' when nobody does); token is the highest granted
-- A lock key that is merely gone (evicted, deleted) is set again: the state beside it still proves that nobody
-- was granted since.
local me, ttl, token = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local holder = redis.call('GET', KEYS[1])
local last = redis.call('HMGET', KEYS[3], 'token', 'released')
local candidates = redis.call('ZCARD', KEYS[4])
-- A key of a wrong type is an error here, before anything is written: it is not ours, and never deleted.
redis.call('STRLEN', KEYS[2])

if last[1] ~= token or last[2] == token or (holder and holder ~= me) then
  local left = math.max(redis.call('PTTL', KEYS[1]), 0)
  return {ARGV[1], 'refused', last[1] or '0', holder or '', left, candidates, ''}
end

redis.call('SET', KEYS[1], me, 'PX', ttl)
redis.call('SET', KEYS[2], string.sub(ARGV[5], 1, -2) .. ', "fencing_token": ' .. token .. '}', 'PX', ttl)
redis.call('HSET', KEYS[3], 'until', string.format('%.0f', now + ttl))
redis.call('ZADD', KEYS[4], string.format('%.0f', now + ARGV[6]), me)
redis.call('PEXPIRE', KEYS[4], ARGV[6])
return {ARGV[1], 'renewed', token, me, ttl, candidates, ''}
