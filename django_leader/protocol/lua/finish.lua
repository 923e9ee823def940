-- How runs of slots have ended.
--
-- KEYS  1 slots   2 runs: see claim.lua   3 and on: the orders that were carried out: see order.lua
-- ARGV  1 request id   2 candidate id
--       and nine words for each run:
--       1 token of the term that has started it   2 name   3 slot   4 claim id   5 outcome   6 took, ms
--       7 error, or ''   8 which key is its order, or '0' for a slot   9 who has given the order, or ''
-- Reply lines of text: request id, and for each run 'finished', or 'gone' if the record is not that of this run any
--       more: a later run has begun, or data were lost. The stream gets its entry then, too, and twice if this is sent
--       twice. The end of an order is in the order and the stream, not in the record: it was no slot.
-- A leader that was deposed meanwhile may say how its run has ended: this starts nothing.
local WORDS, FIRST, KEPT = 9, 3, 86400000  -- of a run, and where the first begins; ms for which an order is kept
redis.call('XLEN', KEYS[2])
local reply = {ARGV[1]}
for first = FIRST, #ARGV, WORDS do
  local token, name, slot, claim_id, outcome, took, error, key, by = unpack(ARGV, first, first + WORDS - 1)
  local order, ordered = KEYS[tonumber(key)], key ~= '0'
  local text = not ordered and redis.call('HMGET', KEYS[1], 'job:' .. name)[1] or ''
  if #text > 4096 then text = '' end  -- first, because a pattern takes long on a text that others have made for it
  local front, process = string.match(text, '^(1 .-)( process=.*)$')
  local own = front and string.match(front, ' claim=(%S+)') == claim_id
  local told = own and string.match(front, ' outcome=(%S+)') == outcome  -- so the first reply was lost
  if order then
    local found = redis.pcall('HMGET', order, 'state', 'token')
    if found.err then order = nil end  -- others have made it a key of another type: nothing can be written there
    own, told = found[2] == token, found[2] == token and found[1] == outcome
  end
  if not told then
    local entry = {'name', name, 'slot', slot, 'outcome', outcome, 'token', token, 'process', ARGV[2], 'took', took,
      'error', error}
    if ordered then entry[15], entry[16] = 'by', by end
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', 5000, '*', unpack(entry))
  end
  if order then  -- one that was lost is made anew, because somebody may wait for its end
    redis.call('HSET', order, 'state', outcome, 'token', token, 'process', ARGV[2], 'took', took, 'error', error,
      'at', slot)
    redis.call('PEXPIRE', order, KEPT)
  elseif own and not ordered then
    front = string.gsub(string.gsub(front, ' took=%d+', ' took=' .. took, 1), ' outcome=%S+', ' outcome=' .. outcome, 1)
    redis.call('HSET', KEYS[1], 'job:' .. name, front .. process)
  end
  reply[#reply + 1] = own and 'finished' or 'gone'
end
return table.concat(reply, '\n')
