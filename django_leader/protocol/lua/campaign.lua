-- One attempt of a candidate to lead. It also tells Redis that the candidate is there, and until when it counts.
--
-- KEYS, ARGV 1 to 6 and what happens first: state.lua
-- ARGV  7 ttl, ms   8 ms for which the candidate counts without a sign of life
--       9 info: a JSON object without the token   10 process of the candidate; or ''
--       11 expired version: the version of the state that the candidate has proved to be over; or ''
--       12 token and 13 reason of the candidate's last term, if the history does not have its end yet; or 0 and ''
--       14 holder and 15 token of a lease whose holder's process is dead, as the kernel has told the candidate; or ''
--       16 server's ms: the latest that the server's clock can have shown, as far as the candidate has seen it
-- Reply as in state.lua
--       verdict 'granted'      the lease is the candidate's, with this token
--               'held'         the holder has it, or has released it with a delay, for the ms left
--               'expired'      the holder had it, or delayed it; to claim it, watch the state (see expiry.py, hold.py)
--               'quarantined'  data were lost: nobody may lead, for the ms left
--               'foreign'      the lock is held by a program that does not speak this protocol, for the ms left
--       duplicate: id of another candidate with the same instance id, told once, when this one joins; or ''
--
-- A dead process renews nothing, so a claim of its lease need not name the version. In a quarantine a death says
-- nothing, and neither does it of a reclaimed state: see reclaim.lua.
-- The lease is granted also when it is the candidate's own: the reply to that grant was lost, so nobody leads by it.
-- That is done only once, because a candidate that no reply reaches must not keep the election from all others. It is
-- not done after a reclaim, which may have come too late to count, and not for a request that a later one of the same
-- candidacy has overtaken.
local ttl, SET_BACK = tonumber(ARGV[7]), 1000
redis.call('XLEN', KEYS[5])  -- an error if it is a key of another type, before anything is written: see state.lua
redis.call('LLEN', KEYS[6])

-- A script blocks the server. So remove at most 1,000 expired candidates, and look for duplicates among at most 5,000.
local gone = redis.call('ZRANGE', KEYS[4], '-inf', '(' .. int(now), 'BYSCORE', 'LIMIT', 0, 1000)
if #gone > 0 then redis.call('ZREM', KEYS[4], unpack(gone)) end
local duplicate, joined = '', redis.call('ZADD', KEYS[4], int(now + ARGV[8]), candidate_id)
redis.call('PEXPIRE', KEYS[4], ARGV[8])
if joined == 1 then
  local id, others = string.sub(candidate_id, 1, -17), redis.call('ZRANGE', KEYS[4], -5000, -1)
  if led then others[#others + 1] = holder end
  for _, other in ipairs(others) do
    if other ~= candidate_id and string.sub(other, 1, -17) == id then duplicate = other end
  end
end
candidates = redis.call('ZCOUNT', KEYS[4], int(now), '+inf')
if tonumber(ARGV[12]) > (believed(found[9]) or 0) then
  -- A reason tells this end from the beginning of a quarantine, which has the same kind.
  remember(ARGV[13], ARGV[13] == 'quarantined' and 'term ended' or '', candidate_id, ARGV[12])
  redis.call('HSET', KEYS[3], 'recorded', ARGV[12])
end

-- After a loss of data, slots of jobs that were started before come once more if the clock was set back: see slots.py.
-- Candidates tell in the quarantine that it was. A later time than in a year is forged.
local reckoned = tonumber(ARGV[16])
if kind == 'quarantine' and reckoned > math.max(now + SET_BACK, began) then
  began = math.min(reckoned, now + LONGEST)
  redis.call('HSET', KEYS[3], 'began', int(began))
end

local claimed = ARGV[11] == version()
local dead = kind == 'lease' and ARGV[14] == holder and ARGV[15] == int(token)
local own = kind == 'lease' and holder == candidate_id and tonumber(request_id) > request
local left = lock and lock ~= candidate_id and redis.call('PTTL', KEYS[1]) or 0
if left > 0 and left <= LONGEST and (lock ~= holder or kind == 'free') then
  return answer('foreign', lock, left, duplicate)
end
if not (claimed or dead or own or kind == 'free') then
  if kind == 'quarantine' then return answer('quarantined', '', until_ - now, duplicate) end
  return answer(until_ > now and 'held' or 'expired', holder, until_ - now, duplicate)
end
if replicas > tonumber(string.match(replication, 'connected_slaves:(%d+)') or 0) then
  return redis.error_reply('NOREPLICAS fewer replicas are connected than MIN_REPLICAS asks for')
end

token = math.max(token + 1, clock)
remember(led and holder ~= candidate_id and 'taken-over' or 'elected', dead and 'died' or '', candidate_id, int(token))
kind = own and not claimed and 'reclaimed' or 'lease'
holder, until_, duration, request, process = candidate_id, now + ttl, ttl, request_id, ARGV[10]
redis.call('SET', KEYS[1], candidate_id, 'PX', ttl)
redis.call('SET', KEYS[2], string.sub(ARGV[9], 1, -2) .. ', "fencing_token": ' .. int(token) .. '}', 'PX', ttl)
began = math.min(math.max(now, reckoned, began), now + LONGEST)
save()
redis.call('DEL', KEYS[6])
return answer('granted', candidate_id, ttl, duplicate)
