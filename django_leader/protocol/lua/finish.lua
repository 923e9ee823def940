-- How runs of slots have ended.
--
-- KEYS  1 slots   2 runs: see claim.lua
-- ARGV  1 request id   2 candidate id
--       and seven words for each run:
--       1 token of the term that has started it   2 name   3 slot   4 claim id   5 outcome   6 took, ms
--       7 error, or ''
-- Reply lines of text: request id, and for each run 'finished', or 'gone' if the record is not that of this run any
--       more: a later run has begun, or data were lost. The stream gets its entry then, too, and twice if this is sent
--       twice.
-- A leader that was deposed meanwhile may say how its run has ended: this starts nothing.
local WORDS, FIRST = 7, 3  -- of a run, and where the first begins
redis.call('XLEN', KEYS[2])
local reply = {ARGV[1]}
for first = FIRST, #ARGV, WORDS do
  local token, name, slot, claim_id, outcome, took, error = unpack(ARGV, first, first + WORDS - 1)
  local text = redis.call('HMGET', KEYS[1], 'job:' .. name)[1] or ''
  if #text > 4096 then text = '' end  -- first, because a pattern takes long on a text that others have made for it
  local front, process = string.match(text, '^(1 .-)( process=.*)$')
  local own = front and string.match(front, ' claim=(%S+)') == claim_id
  if not (own and string.match(front, ' outcome=(%S+)') == outcome) then  -- otherwise the first reply was lost
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', 5000, '*', 'name', name, 'slot', slot, 'outcome', outcome,
      'token', token, 'process', ARGV[2], 'took', took, 'error', error)
  end
  if own then
    front = string.gsub(string.gsub(front, ' took=%d+', ' took=' .. took, 1), ' outcome=%S+', ' outcome=' .. outcome, 1)
    redis.call('HSET', KEYS[1], 'job:' .. name, front .. process)
  end
  reply[#reply + 1] = own and 'finished' or 'gone'
end
return table.concat(reply, '\n')
