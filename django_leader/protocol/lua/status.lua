-- Who leads. Changes nothing.
--
-- KEYS  as in state.lua
-- ARGV  1 request id
-- Reply {request id, candidate id of the holder or '', ms left, info, highest token, candidates, kind of the state
--       or ''}
--       ms left of the holder's lease; without a holder, of the time in which nobody may lead yet
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(key)  -- a text that is too long is shown by its size, as in state.lua
  local length = redis.call('STRLEN', key)
  return length > 32768 and '(' .. string.format('%.0f', length) .. ' bytes)' or redis.call('GET', key)
end
local function digits(found) return found and #found <= 16 and string.match(found, '^%d+$') end
local lock = text(KEYS[1])
local left = math.max(redis.call('PTTL', KEYS[1]), 0)
local found = redis.call('HMGET', KEYS[3], 'kind', 'token', 'until')
local kind, holder = found[1] and #found[1] <= 16 and found[1] or '', lock or ''
if kind == 'delay' or kind == 'quarantine' then
  -- After a loss of data the leader may still be there, and is shown while its lock is.
  if kind == 'delay' then holder = '' end
  if holder == '' then left = math.max(tonumber(digits(found[3]) or 0), now) - now end
end
local candidates = redis.call('ZCOUNT', KEYS[4], string.format('%.0f', now), '+inf')
-- renew.lua does not refresh the entry of a leader among the candidates, so count the holder whose entry is too old.
local score = holder ~= '' and redis.call('ZSCORE', KEYS[4], holder) or 0
if holder ~= '' and tonumber(score) < now then candidates = candidates + 1 end
return {
  ARGV[1],
  holder,
  left,
  text(KEYS[2]) or '',
  digits(found[2]) or '0',
  candidates,
  kind,
}
