-- Claims of slots: of each the right to start its run, given at most once. See slots.py for the rules.
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
--                           took     ms that the last run took, or 0
--                           outcome  of that run; '-' while nobody has said how it ended, 'none' if there was none
--                           process  candidate id of the one that has started it; it may have spaces, so it is last
--       3 runs    stream    what became of each slot: name, slot, outcome, token, process, and where they are known
--                           since (all slots after that instant are meant, up to `slot`), took (ms) and error
-- ARGV  1 request id   2 candidate id   3 token of its term
--       4 not after: server's ms after which the request is too old to be executed
--       5 memory of the state to which the caller's knowledge belongs; '' if it knows none
--       6 server's ms at which the caller's term began, as its grant has said
--       and eight words for each claim:
--       1 name   2 slot   3 the slot before that one   4 claim id, without a space
--       5 grace: ms after the slot up to which its run may start
--       6 'skip' or 'rerun': what becomes of a slot that is in doubt
--       7 the last run of this job, as far as the caller's process knows: '1' it goes on, 'hung' it goes on but blocks
--         no other, 'blocks' it is hung but no other may start, '0' it does not go on here
--       8 the last slot that a claim of this term has decided, or started again; or 0
-- Reply lines of text: request id, verdict on all, now (server's ms), memory of the state; and if the first verdict is
--       'decided', a line for each claim: verdict, slot, attempt, last, the last run's slot and outcome before, since
--       (if not 0, the slots after that one and before the claimed one were recorded as missed or unknown)
--       verdict on all  'decided'
--                       'stale'       the caller does not lead
--                       'late'        the request is too old
--                       'forgotten'   data were lost since the caller's memory: ask again, with the state's
--       verdict 'run'         the slot is the caller's, to start now
--               'rerun'       so is the last run's slot, which is in doubt; the one that was asked for is not decided
--               'done'        the slot, or a later one, was decided before
--               'waiting'     so it was, but by a clock that has been set back since
--               'missed', 'overlapped', 'in-doubt'   it is not run, and the stream says so
--               'unknown'     nor is it, because it may have been started before: there was no record of the job
--               'early'       it is more than a second ahead of the server's clock
local request_id, candidate_id, token = ARGV[1], ARGV[2], ARGV[3]
local BYTES, AHEAD, DOUBT, STARTS, RUNS = 4096, 1000, 2000, 3, 5000
local WORDS, FIRST = 8, 7  -- of a claim, and where the first begins
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function int(number) return string.format('%.0f', number) end
local function number(text)
  local value = text and #text <= 16 and string.match(text, '^%d+$') and tonumber(text)
  return value and value < 2 ^ 53 and value
end
redis.call('XLEN', KEYS[3])  -- an error if it is a key of another type, before anything is written
local state = redis.call('HMGET', KEYS[1], 'kind', 'token', 'until', 'holder', 'memory', 'began')
local names = {}
for first = FIRST, #ARGV, WORDS do names[#names + 1] = 'job:' .. ARGV[first] end
local records = redis.call('HMGET', KEYS[2], unpack(names))

local memory = string.match(string.sub(state[5] or '', 1, 64), '^%S+$') or '-'
local function answer(verdict) return {request_id, verdict, int(now), memory} end
if now > tonumber(ARGV[4]) then return table.concat(answer('late'), '\n') end
local led = (state[1] == 'lease' or state[1] == 'reclaimed') and state[2] == token and state[4] == candidate_id
if not led or (number(state[3]) or 0) <= now then return table.concat(answer('stale'), '\n') end
if ARGV[5] ~= memory then return table.concat(answer('forgotten'), '\n') end
-- A beginning that is later than in a year is forged.
local began = math.min(math.max(tonumber(ARGV[6]), number(state[6]) or 0), now + 366 * 86400000)

-- A record that cannot be read counts as none, but then any slot up to now may have been started.
local RECORD = '^1 last=(%d+) doubt=(%d+) slot=(%d+) token=(%d+) started=(%d+) attempt=(%d+) took=(%d+) ' ..
  'why=(%S+) memory=(%S+) claim=(%S+) policy=(%S+) outcome=(%S+) process=(.*)$'
local function read(text)
  if #text > BYTES then return nil end  -- first, because a pattern may take long on a long text
  local last, doubt, slot, token, started, attempt, took, why, memory, claim, policy, outcome, process =
    string.match(text, RECORD)
  local record = {last = number(last), doubt = number(doubt), slot = number(slot), token = number(token),
    started = number(started), attempt = number(attempt), took = number(took), why = why, memory = memory,
    claim = claim, policy = policy, outcome = outcome, process = process}
  if record.last and record.doubt and record.slot and record.token and record.started and record.attempt and
    record.took then return record end
end

local function claim(found, name, slot, before, claim_id, grace, policy, here, own_last)
  slot, before, grace, own_last = tonumber(slot), tonumber(before), tonumber(grace), tonumber(own_last)
  local record = found and read(found)
  local known = record ~= nil and record ~= false
  if not known then
    record = {last = 0, why = 'none', doubt = found and now + AHEAD or 0, memory = '', slot = 0, token = 0, claim = '-',
      started = 0, attempt = 0, policy = 'skip', outcome = 'none', took = 0, process = ''}
  end
  local before_slot, before_outcome, left_out = int(record.slot), record.outcome, 0
  local function decision(verdict, which, attempt)
    return table.concat({verdict, int(which or slot), int(attempt or 0), int(record.last), before_slot,
      before_outcome, int(left_out)}, ' ')
  end
  local function save()
    redis.call('HSET', KEYS[2], 'job:' .. name, string.format('1 last=%.0f doubt=%.0f slot=%.0f token=%.0f ' ..
      'started=%.0f attempt=%.0f took=%.0f why=%s memory=%s claim=%s policy=%s outcome=%s process=%s', record.last,
      record.doubt, record.slot, record.token, record.started, record.attempt, record.took, record.why, record.memory,
      record.claim, record.policy, record.outcome, record.process))
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
    return decision(verdict, slot, verdict == 'run' and 1 or 0)
  end
  local function start(which, attempt)
    record.slot, record.attempt, record.token, record.claim, record.policy = which, attempt, token, claim_id, policy
    record.started, record.outcome, record.took, record.process = now, '-', 0, candidate_id
  end

  local own = record.outcome == '-' and int(record.token) == token
  if own and record.claim == claim_id then  -- the reply to the first was lost, and nothing was started
    if record.slot == slot and now > slot + grace then
      record.outcome, record.why = 'missed', 'missed'
      return decide('missed')
    end
    save()  -- a change, so that WAIT counts the replicas that have it
    return decision(record.slot == slot and 'run' or 'rerun', record.slot, record.attempt)
  end
  if slot > now + AHEAD then return decision('early') end

  -- A record of another memory may be older than what was lost. Earlier terms may have started slots up to the
  -- beginning of this one, and this term knows its own.
  local changed = record.memory ~= memory
  if changed then record.doubt, record.memory = math.max(record.doubt, began + DOUBT), memory end
  if own_last > record.last then
    -- So the record is older than a claim of this term. That claim has dealt with the record's last run.
    record.last, record.why, changed = own_last, 'run', true
    if record.outcome == '-' then record.outcome = own and 'unreported' or 'in-doubt' end
    before_outcome = record.outcome
  end
  known = known or record.last > 0
  if changed then save() end

  -- The last run. One that goes on in this process does so whatever the record says.
  local goes_on = here == '1' or here == 'blocks'
  if record.outcome == '-' and here ~= '1' then
    if here == 'hung' or here == 'blocks' then  -- also one that an earlier term of this process has started
      record.outcome = 'hung'
    elseif record.policy == 'rerun' and policy == 'rerun' and record.attempt < STARTS and not own
      and own_last < record.slot then  -- otherwise the record is older than a claim of this term, which has dealt with it
      start(record.slot, record.attempt + 1)
      save()
      return decision('rerun', record.slot, record.attempt)
    else  -- 'unreported': this term knows that it does not go on, but its claim or its end was lost
      record.outcome = own and 'unreported' or 'in-doubt'
    end
    remember(record.slot, record.outcome, int(record.token), record.process)
    before_outcome = record.outcome
    save()
  end
  if slot <= record.last then return decision(record.last > now + AHEAD and 'waiting' or 'done') end

  -- The slots since the last that was decided. Of those that are in doubt nobody knows whether they were started.
  local since, doubt = record.last, math.min(record.doubt, before)
  if not known then
    remember(before, 'unknown', token, candidate_id, 0)
  elseif since < before then
    left_out = since
    if since < doubt then
      remember(doubt, 'unknown', token, candidate_id, since)
      since = doubt
    end
    if since < before then remember(before, 'missed', token, candidate_id, since) end
  end
  if goes_on then return decide('overlapped') end
  if slot <= record.doubt and policy ~= 'rerun' then
    return decide((not found or record.why == 'unknown') and 'unknown' or 'in-doubt')
  end
  if now > slot + grace then return decide('missed') end
  start(slot, 1)
  return decide('run')
end

local reply = answer('decided')
for index = 1, #names do
  local first = FIRST + (index - 1) * WORDS
  reply[#reply + 1] = claim(records[index], unpack(ARGV, first, first + WORDS - 1))
end
return table.concat(reply, '\n')
