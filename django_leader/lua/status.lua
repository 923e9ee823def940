-- Who leads, for whoever asks. Changes nothing.
--
-- KEYS  as in state.lua
-- ARGV  1 echo
-- Reply {echo, me of the holder or '', ms left, info, highest token, candidates, kind of the state or ''}
--       ms left of the holder's lease; without a holder, of the time in which nobody may lead yet
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lock = redis.call('GET', KEYS[1])
local left = math.max(redis.call('PTTL', KEYS[1]), 0)
local found = redis.call('HMGET', KEYS[3], 'kind', 'token', 'until')
local kind, holder = found[1] or '', lock or ''
if kind == 'hold' or kind == 'quarantine' then
  -- After a loss of data the leader may still be there, and is shown while its lock is.
  if kind == 'hold' then holder = '' end
  if holder == '' then left = math.max(tonumber(found[3] or 0) or 0, now) - now end
end
local candidates = redis.call('ZCOUNT', KEYS[4], string.format('%.0f', now), '+inf')
-- A leader says in the state that it is there.
local score = holder ~= '' and redis.call('ZSCORE', KEYS[4], holder) or 0
if holder ~= '' and tonumber(score) < now then candidates = candidates + 1 end
return {
  ARGV[1],
  holder,
  left,
  redis.call('GET', KEYS[2]) or '',
  found[2] or '0',
  candidates,
  kind,
}
