-- The voluntary end of a term, of taking part, or of both. Nobody's lease but the caller's own is touched.
--
-- KEYS, ARGV 1 to 6 and what happens first: state.lua
-- ARGV  7 token of the term, or '0' when the caller does not lead   8 reason, for the history
--       9 '1' when the caller takes part no longer
--       10 ms for which nobody may lead yet (0: the next one is woken at once)
--       11 version of a state that was regained, in the last answer that the leader has had; or ''
--       12 what the clocks of the leader's host show, if it holds; or '' (see hold.py)
-- Reply two lines of text: echo, 'released' or 'nothing'; or that of state.lua when it is late
-- What was regained is held for as long as it lasts, unless its version says that the answer was there: see reclaim.lua.
-- One follower is woken, who has waited longest. One that is frozen would eat the wake-up: whoever goes away while nobody
-- leads wakes another, the last leader a little later, and a follower that may have eaten it.
-- Then its end must be proved by watching it, since it may be the end of a lease that is lost: no clocks are published.
local hold, leaves, verdict = tonumber(ARGV[10]), ARGV[9] == '1', 'nothing'
redis.call('XLEN', KEYS[5])
redis.call('LLEN', KEYS[6])

if led and holder == me and token == tonumber(ARGV[7]) then
  remember(ARGV[8], '', me, ARGV[7])
  verdict = 'released'
  process = ARGV[12]
  if kind == 'regained' and ARGV[11] ~= version() then hold, process = math.max(hold, until_ - now), '' end
  kind, until_, span, request = hold > 0 and 'hold' or 'free', now + hold, hold, echo
  save()
  if lock == me then
    if hold > 0 then
      redis.call('PEXPIRE', KEYS[1], hold)
      redis.call('PEXPIRE', KEYS[2], hold)
    else
      redis.call('DEL', KEYS[1], KEYS[2])
    end
  end
end
if leaves then redis.call('ZREM', KEYS[4], me) end
if kind == 'free' and (verdict == 'released' or leaves) then
  redis.call('DEL', KEYS[6])
  redis.call('RPUSH', KEYS[6], '1')
  redis.call('PEXPIRE', KEYS[6], 60000)
end
return echo .. '\n' .. verdict
