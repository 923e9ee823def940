-- One attempt of a candidate to lead. Also tells Redis that it takes part, and when it counts as gone.
--
-- KEYS, ARGV 1 to 5 and what happens first: state.lua
-- ARGV  6 ttl, ms   7 ms for which the candidate counts without a sign of life
--       8 info: a JSON object without the token
--       9 claim: version of the state that is over, as the candidate has proved to itself; or ''
--       10 server's ms after which this request is too old to be executed; or 0
--       11 token and 12 reason of the candidate's last term, if the history does not have its end yet; or 0 and ''
-- Reply as in state.lua
--       verdict 'granted'      the lease is the candidate's, with this token
--               'held'         holder has it, for so many ms
--               'expired'      holder had it; to claim it, watch the state (see machine.py)
--               'quarantined'  data were lost: nobody may lead, for so many ms
--               'foreign'      the lock is held by what does not speak this protocol, for so many ms
--               'late'         the request is too old, or the server's clock has jumped
--       twin: me of another candidate with the same instance id, told once, when this one joins; or ''
-- Granted also when the lease is the candidate's own: the reply to that grant was lost, so nobody leads by it. Not
-- after a reclaim, which may have come too late to count, and not to a request that an earlier one overtook.
local ttl = tonumber(ARGV[6])
redis.call('XLEN', KEYS[5])
redis.call('LLEN', KEYS[6])

if tonumber(ARGV[10]) > 0 and now > tonumber(ARGV[10]) then return answer('late', '', 0) end

redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', '(' .. int(now))
local twin, joined = '', redis.call('ZADD', KEYS[4], int(now + ARGV[7]), me)
redis.call('PEXPIRE', KEYS[4], ARGV[7])
if joined == 1 then
  local id, others = string.sub(me, 1, -17), redis.call('ZRANGE', KEYS[4], 0, -1)
  if kind == 'lease' or kind == 'reclaimed' then others[#others + 1] = holder end
  for _, other in ipairs(others) do
    if other ~= me and string.sub(other, 1, -17) == id then twin = other end
  end
end
candidates = redis.call('ZCARD', KEYS[4])
if ARGV[12] ~= '' then remember(ARGV[12], '', me, ARGV[11]) end

local claimed = ARGV[9] == version()
local own = kind == 'lease' and holder == me and tonumber(echo) > request
local free = kind == 'free' or (kind == 'hold' and now >= until_)
local left = lock and lock ~= me and redis.call('PTTL', KEYS[1]) or 0
if left > 0 and (lock ~= holder or kind == 'free') then return answer('foreign', lock, left, twin) end
if not (claimed or own or free) then
  if kind == 'quarantine' then return answer('quarantined', '', until_ - now, twin) end
  return answer(until_ > now and 'held' or 'expired', holder, until_ - now, twin)
end
if replicas > tonumber(string.match(replication, 'connected_slaves:(%d+)') or 0) then
  return redis.error_reply('NOREPLICAS fewer replicas are connected than MIN_REPLICAS asks for')
end

local taken = (kind == 'lease' or kind == 'reclaimed') and holder ~= me
token = math.max(token + 1, time[1] * 1000000 + time[2])
kind, holder, until_, span, request = 'lease', me, now + ttl, ttl, echo
redis.call('SET', KEYS[1], me, 'PX', ttl)
redis.call('SET', KEYS[2], string.sub(ARGV[8], 1, -2) .. ', "fencing_token": ' .. int(token) .. '}', 'PX', ttl)
save()
remember(taken and 'taken-over' or 'elected', '', me, int(token))
redis.call('DEL', KEYS[6])
return answer('granted', me, ttl, twin)
