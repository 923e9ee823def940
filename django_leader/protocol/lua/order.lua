-- An order: what an operator asks the leader to do. It is written for one term, and put into the inbox of its leader.
--
-- KEYS  1 state   the election's: see state.lua
--       2 order   hash, PX      what      'run-job'
--                               name      of the job
--                               by        who has given the order
--                               token     of the term that may carry it out
--                               not_after server's ms up to which it may be begun
--                               at        server's ms when it was given
--                               state     'waiting'    nobody has begun it
--                                         'taken'      the leader carries it out
--                                         'withdrawn'  nobody has begun it, and nobody will
--                                         otherwise its outcome
--                               process   candidate id of the one that has taken it
--                               took (ms) and error   of what was carried out
--       3 inbox   of the leader: list, PX
-- ARGV  1 request id   2 candidate id of the leader   3 token of its term
--       4 not after: server's ms up to which it may be begun   5 ms for which the order is kept
--       6 message for the leader, a JSON object   7 what   8 name   9 by
-- Reply lines of text: request id, verdict
--       verdict 'given'    the order is there: now, or since this was sent before
--               'changed'  the candidate does not lead by this token
--               'late'     the request is too old
local KEPT = ARGV[5]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function int(number) return string.format('%.0f', number) end
if redis.call('EXISTS', KEYS[2]) == 1 then return ARGV[1] .. '\ngiven' end
if now > tonumber(ARGV[4]) then return ARGV[1] .. '\nlate' end
local state = redis.call('HMGET', KEYS[1], 'kind', 'token', 'until', 'holder')
local led = (state[1] == 'lease' or state[1] == 'reclaimed') and state[2] == ARGV[3] and state[4] == ARGV[2]
local until_ = state[3] and #state[3] <= 16 and tonumber(state[3]) or 0
if not led or until_ <= now then return ARGV[1] .. '\nchanged' end
redis.call('RPUSH', KEYS[3], ARGV[6])
redis.call('PEXPIRE', KEYS[3], int(math.max(ARGV[4] - now, 1)))
redis.call('HSET', KEYS[2], 'what', ARGV[7], 'name', ARGV[8], 'by', ARGV[9], 'token', ARGV[3], 'not_after', ARGV[4],
  'at', int(now), 'state', 'waiting')
redis.call('PEXPIRE', KEYS[2], KEPT)
return ARGV[1] .. '\ngiven'
