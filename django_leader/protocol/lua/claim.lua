-- The claim of one slot of a job: the right to start its run, given at most once. See slots.py for the rules.
--
-- KEYS  1 state   the election's: see state.lua
--       2 jobs    hash      name of a job -> its record: words with a space between
--                           1 last      the last slot that was decided, run or not; only grows
--                           2 slot      of the last run
--                           3 token     of the term that has started it
--                           4 claim     id of the claim
--                           5 started   server's ms
--                           6 attempt   1, or which start of this slot it was
--                           7 outcome   '-' while nobody has said how it ended
--                           8 process   candidate id of the one that has started it; it may have spaces
--       3 runs    stream    what became of each slot: name, slot, outcome, token, process, and where they are known
--                           since (the slots after this one up to the slot are meant), took (ms) and error
-- ARGV  1 request id   2 candidate id   3 token of its term
--       4 not after: server's ms after which the request is too old to be executed, or 0
--       5 name   6 slot   7 the slot before that one   8 claim id
--       9 grace: ms after the slot up to which its run may start
--       10 ms after which a run counts as hung, or 0
--       11 'skip' or 'rerun': what becomes of a slot that is in doubt
--       12 '1' if the last run of this job goes on in the caller's process
--       13 server's ms at which the caller's term began   14 the last slot that it knows to be decided, or 0
-- Reply lines of text: request id, verdict, now (server's ms), slot, attempt, the last run's slot and outcome before
--       verdict 'run'         the slot is the caller's, to start now
--               'rerun'       so is the last run's slot, which is in doubt; the one that was asked for is not decided
--               'done'        the slot, or a later one, was decided before
--               'missed', 'overlapped', 'in-doubt'   it is not run, and the stream says so
--               'early'       it is more than a second ahead of the server's clock
--               'stale'       the caller does not lead
--               'late'        the request is too old
--
-- All that others may have forged is read as in state.lua, up to a size and a number. A record that cannot be read
-- counts as none.
local request_id, candidate_id, token = ARGV[1], ARGV[2], ARGV[3]
local name, slot, before, claim, policy = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8], ARGV[11]
local BYTES, AHEAD, STARTS, RUNS = 4096, 1000, 3, 5000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function int(number) return string.format('%.0f', number) end
local function number(text)
  return text and #text <= 16 and string.match(text, '^%d+$') and tonumber(text)
end
redis.call('XLEN', KEYS[3])  -- an error if it is a key of another type, before anything is written
local state = redis.call('HMGET', KEYS[1], 'kind', 'token', 'until', 'holder', 'doubt_until', 'doubt_token')
local text = redis.call('HMGET', KEYS[2], name)[1] or ''
if #text > BYTES then text = '' end

local last, run = 0, nil
local words = {string.match(text, '^(%d+) (%d+) (%d+) (%S+) (%d+) (%d+) (%S+) (.*)$')}
for _, index in ipairs({1, 2, 3, 5, 6}) do words[index] = number(words[index]) end
-- A slot that no schedule can have named yet is forged, and would keep the job from running for ever.
if words[1] and words[2] and words[3] and words[5] and words[6] and words[1] <= now + 366 * 86400000 then
  last = words[1]
  run = {slot = words[2], token = words[3], claim = words[4], started = words[5], attempt = words[6],
    outcome = words[7], process = words[8]}
end
local known = run ~= nil
run = run or {slot = 0, token = 0, claim = '-', started = 0, attempt = 0, outcome = 'none', process = ''}
local last_run = {int(run.slot), run.outcome}
local function answer(verdict, which, attempt)
  return table.concat({request_id, verdict, int(now), int(which or slot), int(attempt or 0), unpack(last_run)}, '\n')
end
local function save()
  redis.call('HSET', KEYS[2], name, table.concat({int(last), int(run.slot), int(run.token), run.claim,
    int(run.started), int(run.attempt), run.outcome, run.process}, ' '))
end
local function remember(which, outcome, whose, process, since)
  local entry = {'name', name, 'slot', int(which), 'outcome', outcome, 'token', whose, 'process', process}
  if since then entry[11], entry[12] = 'since', int(since) end
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', RUNS, '*', unpack(entry))
end
local function skip(why)
  last = slot
  remember(slot, why, token, candidate_id)
  save()
  return answer(why)
end
local function start(verdict)
  run.token, run.claim, run.started, run.outcome, run.process = token, claim, now, '-', candidate_id
  save()
  return answer(verdict, run.slot, run.attempt)
end

if tonumber(ARGV[4]) > 0 and now > tonumber(ARGV[4]) then return answer('late') end
local led = (state[1] == 'lease' or state[1] == 'reclaimed') and state[2] == token and state[4] == candidate_id
if not led or (number(state[3]) or 0) <= now then return answer('stale') end
if run.claim == claim and run.outcome == '-' then  -- the reply to the first was lost, and nothing was started
  return answer(run.slot == slot and 'run' or 'rerun', run.slot, run.attempt)
end
if slot > now + AHEAD then return answer('early') end
local own_last = tonumber(ARGV[14])
if own_last > last then last, known = own_last, true end
if slot <= last then return answer('done') end

if run.outcome == '-' then
  if int(run.token) == token then
    if ARGV[12] == '1' then
      local hung = tonumber(ARGV[10]) > 0 and now - run.started > tonumber(ARGV[10])
      if not hung then return skip('overlapped') end
      remember(run.slot, 'hung', token, candidate_id)
      run.outcome = 'hung'
    else  -- the reply to its claim never came, and was given up
      remember(run.slot, 'failed-to-start', token, candidate_id)
      run.outcome = 'failed-to-start'
    end
  elseif policy == 'rerun' and run.attempt < STARTS then
    run.attempt = run.attempt + 1
    return start('rerun')
  else
    remember(run.slot, 'in-doubt', int(run.token), run.process)
    run.outcome = 'in-doubt'
  end
  last_run[2] = run.outcome
end
if not known then
  remember(before, 'unknown', token, candidate_id, 0)
elseif last < before then
  remember(before, 'missed', token, candidate_id, last)
end
last = math.max(last, before)

-- After a loss of data nobody knows which slots were started, up to doubt_until. But a leader whose term began before
-- that knows its own, and no other process has started one since its term began.
local doubt_until, doubt_token = number(state[5]) or now + AHEAD, number(state[6]) or 0
local vouched = slot > tonumber(ARGV[13]) and tonumber(token) <= doubt_token
if slot <= doubt_until and not vouched and policy ~= 'rerun' then return skip('in-doubt') end
if now > slot + tonumber(ARGV[9]) then return skip('missed') end
last, run.slot, run.attempt = slot, slot, 1
return start('run')
