-- The heartbeat of a leader that must be checked in full: the first on a new connection, the confirmation of a grant,
-- one that publishes another process, or one to which renew.lua said 'unsure'.
--
-- KEYS, ARGV 1 to 6 and what happens first: state.lua; the highest token is that of the term
-- ARGV  7 ttl, ms   8 ms for which the candidate counts without a sign of life
--       9 info: a JSON object without the token   10 process of the leader; or ''
--       11 '1': confirms a grant, which no data loss may have followed
--       12 acknowledged version: that of the state in the last answer that the leader has had; or ''
--       13 server's ms at which the term began, as the grant has said: see state.lua
-- Reply as in state.lua
--       verdict 'renewed'      token and holder are the leader's own
--               'refused'      the holder has the lease ('' when nobody does); token is the highest
--               'quarantined'  nobody may lead
--
-- The lock key is set again when it is gone (evicted, deleted): the state proves that nobody was granted since.
-- When data were lost the leader reclaims its term. That counts only if the reply reaches it before its old deadline
-- (see machine.py). The state lasts at least as long as a quarantine, because the lease of another leader may have been
-- lost, too. The next heartbeat names the version, which says that the reply arrived, and so makes the state a lease
-- like any other. Until then the state must bind all others. For example: A reclaims its term and dies, while B, whose
-- newer lease was lost with the data, still leads. If the state lasted only a ttl, or if the death of A freed it, C
-- could be granted a lease beside B.
local ttl, acknowledged = tonumber(ARGV[7]), ARGV[12] == version()
local own = led and holder == candidate_id and token == highest_token
local reclaims = token == highest_token and (kind == 'quarantine' or lost) and ARGV[11] ~= '1'
local left = lock and lock ~= candidate_id and lock ~= holder and redis.call('PTTL', KEYS[1]) or 0
local foreign = left > 0 and left <= LONGEST
if foreign or not (own or reclaims) then
  local who = foreign and lock or led and holder or ''
  return answer(kind == 'quarantine' and 'quarantined' or 'refused', who, until_ - now)
end

duration = ttl
if reclaims then
  kind, holder, duration = 'reclaimed', candidate_id, math.max(ttl, quarantine)
  remember('reclaimed', lost or '', candidate_id, int(token))
elseif kind == 'reclaimed' then
  if acknowledged then kind = 'lease' else duration = math.max(ttl, quarantine) end
end
until_, request, process = now + duration, request_id, ARGV[10]
began = math.max(began, tonumber(ARGV[13]))
redis.call('SET', KEYS[1], candidate_id, 'PX', ttl)
redis.call('SET', KEYS[2], string.sub(ARGV[9], 1, -2) .. ', "fencing_token": ' .. int(token) .. '}', 'PX', ttl)
save()
redis.call('ZADD', KEYS[4], int(now + ARGV[8]), candidate_id)
redis.call('PEXPIRE', KEYS[4], ARGV[8])
return answer('renewed', candidate_id, duration)
