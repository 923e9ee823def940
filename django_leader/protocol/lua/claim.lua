-- The claim of one slot of a job: the right to start its run, given at most once. See slots.py for the rules.
--
-- KEYS  1 state   the election's: see state.lua
--       2 slots   hash      'job:' and the name of a job -> its record: '1' and words `name=value`, a space between
--                           last     the last slot that was decided, run or not; only grows
--                           why      how it was decided: 'run', or the outcome of one that was not run
--                           doubt    slots up to this one may have been started without this record knowing it
--                           memory   of the state when the record was written: see state.lua
--                           slot, token, claim, started, attempt, policy   of the last run: its slot, the term that has
--                                    started it, the id of the claim, server's ms, which start of the slot it was, and
--                                    'skip' or 'rerun'
--                           outcome  of that run; '-' while nobody has said how it ended, 'none' if there was none
--                           process  candidate id of the one that has started it; it may have spaces, so it is last
--       3 runs    stream    what became of each slot: name, slot, outcome, token, process, and where they are known
--                           since (the slots after this one up to the slot are meant), took (ms) and error
-- ARGV  1 request id   2 candidate id   3 token of its term
--       4 not after: server's ms after which the request is too old to be executed, or 0
--       5 name   6 slot   7 the slot before that one   8 claim id, without a space
--       9 grace: ms after the slot up to which its run may start
--       10 'skip' or 'rerun': what becomes of a slot that is in doubt
--       11 the last run of this job, as far as the caller's process knows: '1' it goes on, 'hung' it goes on but blocks
--          no other, '0' it does not go on here
--       12 server's ms at which the caller's term began, as the caller reckons
--       13 the last slot that this term knows to be decided, or 0
-- Reply lines of text: request id, verdict, now (server's ms), slot, attempt, last, the last run's slot and outcome
--       before
--       verdict 'run'         the slot is the caller's, to start now
--               'rerun'       so is the last run's slot, which is in doubt; the one that was asked for is not decided
--               'done'        the slot, or a later one, was decided before
--               'waiting'     so it was, but by a clock that has been set back since
--               'missed', 'overlapped', 'in-doubt'   it is not run, and the stream says so
--               'early'       it is more than a second ahead of the server's clock
--               'stale'       the caller does not lead
--               'late'        the request is too old
local request_id, candidate_id, token = ARGV[1], ARGV[2], ARGV[3]
local name, slot, before, claim, policy = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8], ARGV[10]
local BYTES, AHEAD, STARTS, RUNS = 4096, 1000, 3, 5000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function int(number) return string.format('%.0f', number) end
local function number(text)
  return text and #text <= 16 and string.match(text, '^%d+$') and tonumber(text)
end
redis.call('XLEN', KEYS[3])  -- an error if it is a key of another type, before anything is written
local state = redis.call('HMGET', KEYS[1], 'kind', 'token', 'until', 'holder', 'memory', 'began', 'began_token')
local found = redis.call('HMGET', KEYS[2], 'job:' .. name)[1]

-- The record. One that cannot be read counts as none, but then any slot up to now may have been started.
local NUMBERS, TEXTS = {'last', 'doubt', 'slot', 'token', 'started', 'attempt'},
  {'why', 'memory', 'claim', 'policy', 'outcome'}
local function read(text)
  if #text > BYTES then return nil end  -- first, because a pattern may take long on a long text
  local front, process = string.match(text, '^1 (.-) process=(.*)$')
  if not front then return nil end
  local record = {process = process}
  for key, value in string.gmatch(front, '([%w_]+)=(%S+)') do record[key] = value end
  for _, key in ipairs(NUMBERS) do
    record[key] = number(record[key])
    if not record[key] then return nil end
  end
  for _, key in ipairs(TEXTS) do if not record[key] then return nil end end
  return record
end
local memory = string.match(string.sub(state[5] or '', 1, 64), '^%S+$') or '-'
local record = found and read(found)
local known = record ~= nil and record ~= false
if not known then
  record = {last = 0, why = 'none', doubt = found and now + AHEAD or 0, memory = '', slot = 0, token = 0, claim = '-',
    started = 0, attempt = 0, policy = 'skip', outcome = 'none', process = ''}
end
local last_run = {int(record.slot), record.outcome}
local function answer(verdict, which, attempt)
  return table.concat({request_id, verdict, int(now), int(which or slot), int(attempt or 0), int(record.last),
    unpack(last_run)}, '\n')
end
local function save()
  local words = {'1'}
  for _, key in ipairs(NUMBERS) do words[#words + 1] = key .. '=' .. int(record[key]) end
  for _, key in ipairs(TEXTS) do words[#words + 1] = key .. '=' .. record[key] end
  words[#words + 1] = 'process=' .. record.process
  redis.call('HSET', KEYS[2], 'job:' .. name, table.concat(words, ' '))
end
local function remember(which, outcome, whose, process, since)
  local entry = {'name', name, 'slot', int(which), 'outcome', outcome, 'token', whose, 'process', process}
  if since then entry[11], entry[12] = 'since', int(since) end
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', RUNS, '*', unpack(entry))
end
local function decide(verdict)
  record.last, record.why = slot, verdict
  if verdict ~= 'run' then remember(slot, verdict, token, candidate_id) end
  save()
  return answer(verdict, slot, verdict == 'run' and 1 or 0)
end
local function start(which, attempt)
  record.slot, record.attempt, record.token, record.claim, record.policy = which, attempt, token, claim, policy
  record.started, record.outcome, record.process = now, '-', candidate_id
end

if tonumber(ARGV[4]) > 0 and now > tonumber(ARGV[4]) then return answer('late') end
local led = (state[1] == 'lease' or state[1] == 'reclaimed') and state[2] == token and state[4] == candidate_id
if not led or (number(state[3]) or 0) <= now then return answer('stale') end
local own = record.outcome == '-' and int(record.token) == token
if own and record.claim == claim then  -- the reply to the first was lost, and nothing was started
  save()  -- a change, so that WAIT counts the replicas that have it
  return answer(record.slot == slot and 'run' or 'rerun', record.slot, record.attempt)
end
if slot > now + AHEAD then return answer('early') end

-- A record of another memory may be older than what was lost. Earlier terms may have started slots up to the beginning
-- of this one, and this term knows its own.
local own_last, changed = tonumber(ARGV[13]), record.memory ~= memory
if changed then
  local began = math.max(tonumber(ARGV[12]), state[7] == token and number(state[6]) or 0)
  began = math.min(began, now + 366 * 86400000)  -- a later one is forged
  record.doubt, record.memory = math.max(record.doubt, began + AHEAD), memory
end
if own_last > record.last then record.last, record.why, changed = own_last, 'run', true end
known = known or record.last > 0
if changed then save() end

-- The last run. One that goes on in this process does so whatever the record says.
local goes_on = ARGV[11] == '1'
if record.outcome == '-' and not goes_on then
  if own and ARGV[11] == 'hung' then
    record.outcome = 'hung'
  elseif record.policy == 'rerun' and policy == 'rerun' and record.attempt < STARTS then
    start(record.slot, record.attempt + 1)
    save()
    return answer('rerun', record.slot, record.attempt)
  else  -- 'unreported': its claim or its end was lost, and was given up
    record.outcome = own and 'unreported' or 'in-doubt'
  end
  remember(record.slot, record.outcome, int(record.token), record.process)
  last_run[2] = record.outcome
  save()
end
if slot <= record.last then return answer(record.last > now + AHEAD and 'waiting' or 'done') end

if not known then
  remember(before, 'unknown', token, candidate_id, 0)
elseif record.last < before then
  remember(before, 'missed', token, candidate_id, record.last)
end
if goes_on then return decide('overlapped') end
if slot <= record.doubt and policy ~= 'rerun' then return decide('in-doubt') end
if now > slot + tonumber(ARGV[9]) then return decide('missed') end
start(slot, 1)
return decide('run')
