-- The voluntary end of a term, of a candidacy, or of both. No lease but the caller's own is touched.
--
-- KEYS, ARGV 1 to 6 and what happens first: state.lua
-- ARGV  7 token of the term, or '0' when the caller does not lead   8 reason, for the history
--       9 '1' when the candidacy ends
--       10 delay: ms for which nobody may lead yet (0: the next one is woken at once)
--       11 acknowledged version, if it is that of a reclaimed state; or ''
--       12 what the clocks of the leader's host show, if there is a delay; or '' (see hold.py)
-- Reply two lines of text: request id, 'released' or 'nothing'; or that of state.lua when it is late
--
-- A reclaimed state is delayed for as long as it lasts, unless the acknowledged version says that its reply arrived:
-- see reclaim.lua. Its end must then be proved by watching it, because it may be the end of a lease that was lost. So
-- no clocks are published.
-- The follower that has waited longest is woken. If that one is frozen, its wake-up is lost. So a candidate that
-- leaves while there is no leader wakes one more follower. The last leader does so a little later than its release; a
-- follower does so because it may have taken the wake-up itself.
local delay, leaves, verdict = tonumber(ARGV[10]), ARGV[9] == '1', 'nothing'
redis.call('XLEN', KEYS[5])  -- an error if it is a key of another type, before anything is written: see state.lua
redis.call('LLEN', KEYS[6])

if led and holder == candidate_id and token == tonumber(ARGV[7]) then
  remember(ARGV[8], '', candidate_id, ARGV[7])
  verdict = 'released'
  process = ARGV[12]
  if kind == 'reclaimed' and ARGV[11] ~= version() then delay, process = math.max(delay, until_ - now), '' end
  kind, until_, duration, request = delay > 0 and 'delay' or 'free', now + delay, delay, request_id
  save()
  if lock == candidate_id then
    if delay > 0 then
      redis.call('PEXPIRE', KEYS[1], delay)
      redis.call('PEXPIRE', KEYS[2], delay)
    else
      redis.call('DEL', KEYS[1], KEYS[2])
    end
  end
end
if leaves then redis.call('ZREM', KEYS[4], candidate_id) end
if kind == 'free' and (verdict == 'released' or leaves) then
  redis.call('DEL', KEYS[6])
  redis.call('RPUSH', KEYS[6], '1')
  redis.call('PEXPIRE', KEYS[6], 60000)
end
return request_id .. '\n' .. verdict
