-- The heartbeat of a leader that must look closer: the first on a connection, a grant that is to be confirmed, or one
-- to which renew.lua said 'unsure'.
--
-- KEYS, ARGV 1 to 6 and what happens first: state.lua; the floor is the token of the term
-- ARGV  7 ttl, ms   8 ms for which the candidate counts without a sign of life
--       9 info: a JSON object without the token   10 process of the leader; or ''
--       11 '1': confirms a grant, which no data loss may have followed
--       12 version of the state in the last answer that the leader has had; or ''
-- Reply as in state.lua
--       verdict 'renewed'      token and holder are the leader's own
--               'refused'      holder has the lease ('' when nobody does); token is the highest
--               'quarantined'  nobody may lead
-- The lock key is set again when it is gone (evicted, deleted): the state proves that nobody was granted since.
-- When data were lost the leader reclaims its term. That counts only if the reply reaches it before its old deadline
-- (see machine.py); the state lasts as long as a quarantine, since another one's lease may have been lost, too. The next
-- heartbeat says that the answer was there, by naming the version, and so makes it a lease like any other. Until then it
-- may be what a dead leader's last request has set, while another one, whose lease was lost, leads.
local ttl, answered = tonumber(ARGV[7]), ARGV[12] == version()
local own = led and holder == me and token == floor
local reclaims = token == floor and (kind == 'quarantine' or lost) and ARGV[11] ~= '1'
local left = lock and lock ~= me and lock ~= holder and redis.call('PTTL', KEYS[1]) or 0
local foreign = left > 0 and left <= LONGEST
if foreign or not (own or reclaims) then
  local who = foreign and lock or led and holder or ''
  return answer(kind == 'quarantine' and 'quarantined' or 'refused', who, until_ - now)
end

span = ttl
if reclaims then
  kind, holder, span = 'regained', me, math.max(ttl, quarantine)
  remember('reclaimed', lost or '', me, int(token))
elseif kind == 'regained' then
  if answered then kind = 'lease' else span = math.max(ttl, quarantine) end
end
until_, request, process = now + span, echo, ARGV[10]
redis.call('SET', KEYS[1], me, 'PX', ttl)
redis.call('SET', KEYS[2], string.sub(ARGV[9], 1, -2) .. ', "fencing_token": ' .. int(token) .. '}', 'PX', ttl)
save()
redis.call('ZADD', KEYS[4], int(now + ARGV[8]), me)
redis.call('PEXPIRE', KEYS[4], ARGV[8])
return answer('renewed', me, span)
