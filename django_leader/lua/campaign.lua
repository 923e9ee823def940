-- One attempt of a candidate to lead. Also tells Redis that it takes part, and when it counts as gone.
--
-- KEYS, ARGV 1 to 6 and what happens first: state.lua
-- ARGV  7 ttl, ms   8 ms for which the candidate counts without a sign of life
--       9 info: a JSON object without the token   10 process of the candidate; or ''
--       11 claim: version of the state that is over, as the candidate has proved to itself; or ''
--       12 token and 13 reason of the candidate's last term, if the history does not have its end yet; or 0 and ''
--       14 holder and 15 token of a lease whose holder's process is dead, as the kernel has told the candidate; or ''
-- Reply as in state.lua
--       verdict 'granted'      the lease is the candidate's, with this token
--               'held'         holder has it, for so many ms
--               'expired'      holder had it, or held it; to claim it, watch the state (see watch.py, hold.py)
--               'quarantined'  data were lost: nobody may lead, for so many ms
--               'foreign'      the lock is held by what does not speak this protocol, for so many ms
--       twin: me of another candidate with the same instance id, told once, when this one joins; or ''
-- The dead renew nothing, so a claim of their lease need not name its version. In a quarantine it says nothing, and
-- neither of what was regained: see reclaim.lua.
-- Granted also when the lease is the candidate's own: the reply to that grant was lost, so nobody leads by it. But
-- once only: a candidate that no reply reaches must not keep the election from all others. Not after a reclaim, which
-- may have come too late to count, and not to a request that an earlier one overtook.
local ttl = tonumber(ARGV[7])
redis.call('XLEN', KEYS[5])
redis.call('LLEN', KEYS[6])

-- A thousand at a time, and of a crowd a part is asked for twins: each campaign is one step of the server.
local gone = redis.call('ZRANGE', KEYS[4], '-inf', '(' .. int(now), 'BYSCORE', 'LIMIT', 0, 1000)
if #gone > 0 then redis.call('ZREM', KEYS[4], unpack(gone)) end
local twin, joined = '', redis.call('ZADD', KEYS[4], int(now + ARGV[8]), me)
redis.call('PEXPIRE', KEYS[4], ARGV[8])
if joined == 1 then
  local id, others = string.sub(me, 1, -17), redis.call('ZRANGE', KEYS[4], -5000, -1)
  if led then others[#others + 1] = holder end
  for _, other in ipairs(others) do
    if other ~= me and string.sub(other, 1, -17) == id then twin = other end
  end
end
candidates = redis.call('ZCOUNT', KEYS[4], int(now), '+inf')
if tonumber(ARGV[12]) > (believed(found[9]) or 0) then
  remember(ARGV[13], '', me, ARGV[12])
  redis.call('HSET', KEYS[3], 'told', ARGV[12])
end

local claimed = ARGV[11] == version()
local dead = kind == 'lease' and ARGV[14] == holder and ARGV[15] == int(token)
local own = kind == 'lease' and holder == me and tonumber(echo) > request
local left = lock and lock ~= me and redis.call('PTTL', KEYS[1]) or 0
if left > 0 and left <= LONGEST and (lock ~= holder or kind == 'free') then
  return answer('foreign', lock, left, twin)
end
if not (claimed or dead or own or kind == 'free') then
  if kind == 'quarantine' then return answer('quarantined', '', until_ - now, twin) end
  return answer(until_ > now and 'held' or 'expired', holder, until_ - now, twin)
end
if replicas > tonumber(string.match(replication, 'connected_slaves:(%d+)') or 0) then
  return redis.error_reply('NOREPLICAS fewer replicas are connected than MIN_REPLICAS asks for')
end

token = math.max(token + 1, clock)
remember(led and holder ~= me and 'taken-over' or 'elected', dead and 'died' or '', me, int(token))
kind = own and not claimed and 'regained' or 'lease'
holder, until_, span, request, process = me, now + ttl, ttl, echo, ARGV[10]
redis.call('SET', KEYS[1], me, 'PX', ttl)
redis.call('SET', KEYS[2], string.sub(ARGV[9], 1, -2) .. ', "fencing_token": ' .. int(token) .. '}', 'PX', ttl)
save()
redis.call('DEL', KEYS[6])
return answer('granted', me, ttl, twin)
