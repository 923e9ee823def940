-- The leader takes an order to run a job now. See slots.py for the rule (J11), and order.lua for the order.
--
-- KEYS  1 state   the election's: see state.lua
--       2 order   hash, PX: see order.lua
--       3 runs    stream: see claim.lua
-- ARGV  1 request id   2 candidate id   3 token of its term
--       4 not after: server's ms after which the request is too old to be executed
--       5 name of the job
--       6 the last run of this job, as far as the caller's process knows: '1' it goes on, '0' it does not go on here;
--         or 'absent': the caller has no such job
-- Reply lines of text: request id, verdict, now (server's ms), at, by
--       verdict 'run'         the caller starts the run, once
--               'overlapped'  it does not, because the last run goes on
--               'absent'      it does not, because it has no such job
--               'gone'        it does not: the order is withdrawn, too old, carried out, another term's, or lost
--               'stale'       the caller does not lead
--               'late'        the request is too old
-- The answer to a request that is sent again is the same, unless it is too old by now: nothing was started for it.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('XLEN', KEYS[3])  -- an error if it is a key of another type, before anything is written
local state = redis.call('HMGET', KEYS[1], 'kind', 'token', 'until', 'holder')
-- If others have made it a key of another type, this order is lost, and no other one. An error would be tried again.
local found = redis.pcall('HMGET', KEYS[2], 'state', 'token', 'not_after', 'what', 'name', 'at', 'by')
local function number(text) return text and #text <= 16 and string.match(text, '^%d+$') and tonumber(text) or 0 end
local at, by = number(found[6]), string.sub(found[7] or '', 1, 1024)
local function answer(verdict)
  local shown = string.format('%.0f\n%.0f', now, at)
  return table.concat({ARGV[1], verdict, shown, by}, '\n')
end
if now > tonumber(ARGV[4]) then return answer('late') end
local led = (state[1] == 'lease' or state[1] == 'reclaimed') and state[2] == ARGV[3] and state[4] == ARGV[2]
if not led or number(state[3]) <= now then return answer('stale') end
local open = found[1] == 'waiting' or found[1] == 'taken'
if not open or found[2] ~= ARGV[3] or found[4] ~= 'run-job' or found[5] ~= ARGV[5] then return answer('gone') end
if now > number(found[3]) then
  redis.call('HSET', KEYS[2], 'state', 'withdrawn')
  return answer('gone')
end

local verdict = 'run'
if ARGV[6] == 'absent' then verdict = 'absent' elseif ARGV[6] == '1' then verdict = 'overlapped' end
redis.call('HSET', KEYS[2], 'state', verdict == 'run' and 'taken' or verdict, 'process', ARGV[2])
if verdict == 'overlapped' then
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', 5000, '*', 'name', ARGV[5], 'slot', string.format('%.0f', at),
    'outcome', verdict, 'token', ARGV[3], 'process', ARGV[2], 'by', by)
end
return answer(verdict)
