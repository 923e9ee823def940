-- The claim of a slot by any process, without a leader: the right to start its run, given once as long as data last.
--
-- KEYS  1 slots   2 runs: see claim.lua, which has the form of a record. The token is 0, and the memory '-'.
-- ARGV  1 request id   2 id of the process: its instance id, ':' and 16 hexadecimal digits
--       3 not after: server's ms after which the request is too old to be executed
--       4 name   5 slot   6 the slot before that one   7 claim id, without a space
--       8 grace: ms after the slot up to which its run may start
--       9 ms after which a run without an end counts as hung, and blocks no other any more; or 0: it blocks none
-- Reply as in claim.lua, with one claim, without a memory, and with 0 for the slots that were left out
--       verdict on all  'decided', or 'late'
--       verdict 'run'          the slot is the caller's, to start now
--               'done'         the slot, or a later one, was decided before
--               'waiting'      so it was, but by a clock that has been set back since
--               'missed', 'overlapped'   it is not run, and the stream says so
--               'unknown'      nor is it, because it may have been started before: there is no record that can be read
--               'early'        it is more than a second ahead of the server's clock
-- A request that is sent again gets the same answer while the run has no end: nothing was started for it. It is sent
-- again only when the first is too old to be executed, so a copy that comes late writes nothing.
local request_id, process, claim_id = ARGV[1], ARGV[2], ARGV[7]
local AHEAD, RUNS = 1000, 5000
local name, slot, before, grace, max_run = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[8], tonumber(ARGV[9])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function int(number) return string.format('%.0f', number) end
local function number(text)
  local value = text and #text <= 16 and string.match(text, '^%d+$') and tonumber(text)
  return value and value < 2 ^ 53 and value
end
redis.call('XLEN', KEYS[2])  -- an error if it is a key of another type, before anything is written
local text = redis.call('HMGET', KEYS[1], 'job:' .. name)[1] or ''
local function answer(verdict, ...) return table.concat({request_id, verdict, int(now), '-', ...}, '\n') end
if now > tonumber(ARGV[3]) then return answer('late') end

local words, by = {}, nil
if #text <= 4096 and string.sub(text, 1, 2) == '1 ' then  -- first, because a pattern may take long on a long text
  local front, last_process = string.match(text, '^(.-) process=(.*)$')
  for key, value in string.gmatch(front or '', '(%w+)=(%S+)') do words[key] = value end
  by = last_process
end
local last, last_slot, started, took = number(words.last), number(words.slot), number(words.started), number(words.took)
local known = last and last_slot and started and took and words.outcome and words.claim
if not known then last, last_slot, started, took, by = 0, 0, 0, 0, '' end
local outcome = known and words.outcome or 'none'
local function decided(verdict, runs)
  return answer('decided', table.concat({verdict, int(slot), runs or 0, int(last), int(last_slot), outcome, 0}, ' '))
end
local function remember(which, what, since)
  local entry = {'name', name, 'slot', int(which), 'outcome', what, 'token', '0', 'process', process}
  if since then entry[11], entry[12] = 'since', int(since) end
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', RUNS, '*', unpack(entry))
end
local function save(why, run, how, id)
  redis.call('HSET', KEYS[1], 'job:' .. name, '1 last=' .. int(last) .. ' doubt=0 slot=' .. int(run) ..
    ' token=0 started=' .. int(started) .. ' attempt=1 took=' .. int(took) .. ' why=' .. why .. ' memory=- claim=' ..
    id .. ' policy=skip outcome=' .. how .. ' process=' .. by)
end

local own = known and words.claim == claim_id and outcome == '-' and last_slot == slot
if own and now <= slot + grace then  -- the reply to the first was lost
  save('run', slot, '-', claim_id)  -- a change, so that WAIT counts the replicas that have it
  return decided('run', 1)
end
if slot > now + AHEAD then return decided('early') end
if slot <= last and not own then return decided(last > now + AHEAD and 'waiting' or 'done') end

local verdict = 'run'
if own or now > slot + grace then verdict = 'missed' end
if not known then
  remember(before, 'unknown', 0)
  verdict = 'unknown'
elseif last < before then
  remember(before, 'missed', last)
end
if verdict == 'run' and outcome == '-' and now < started + max_run then verdict = 'overlapped' end
last = slot
if verdict ~= 'run' then
  remember(slot, verdict)
  save(verdict, last_slot, own and 'missed' or outcome, known and words.claim or '-')
  return decided(verdict)
end
if outcome == '-' then remember(last_slot, 'in-doubt') end  -- nobody has told the end of the last run
started, took, by = now, 0, process
save('run', slot, '-', claim_id)
return decided('run', 1)
