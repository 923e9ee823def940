-- How the run of a slot has ended.
--
-- KEYS  1 slots   2 runs: see claim.lua
-- ARGV  1 request id   2 candidate id   3 token of the term that has started it
--       4 name   5 slot   6 claim id   7 outcome   8 took, ms   9 error, or ''
-- Reply two lines of text: request id, 'finished', or 'gone' if the record is not that of this run any more: a later
--       run has begun, or data were lost. The stream gets its entry then, too, and twice if this is sent twice.
-- A leader that was deposed meanwhile may say how its run has ended: this starts nothing.
local name, outcome = ARGV[4], ARGV[7]
local text = redis.call('HMGET', KEYS[1], 'job:' .. name)[1] or ''
redis.call('XLEN', KEYS[2])
if #text > 4096 then text = '' end  -- first, because a pattern takes long on a text that others have made for it
local front, claim, middle, ended, rest = string.match(text, '^(1 .- claim=)(%S+)( .- outcome=)(%S+)( process=.*)$')
local own = claim == ARGV[6]
if not (own and ended == outcome) then  -- otherwise the reply to the first was lost
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', 5000, '*', 'name', name, 'slot', ARGV[5], 'outcome', outcome,
    'token', ARGV[3], 'process', ARGV[2], 'took', ARGV[8], 'error', ARGV[9])
end
if own then redis.call('HSET', KEYS[1], 'job:' .. name, front .. claim .. middle .. outcome .. rest) end
return ARGV[1] .. '\n' .. (own and 'finished' or 'gone')
