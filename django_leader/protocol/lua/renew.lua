-- The heartbeat of a leader: its lease lasts another ttl from now on. It is as short as possible, because it is all
-- that a healthy election does. It leaves a state that is not plainly the leader's own as it is, and to reclaim.lua.
--
-- KEYS  1 lock   2 info   3 state: see state.lua   4 inbox of the leader, a list
-- ARGV  1 request id   2 candidate id   3 token of the term   4 ttl, ms   5 info: a JSON object
-- Reply one line: request id, 'renewed', now (server's ms), version, '1' if there is something in the inbox, or '0';
--       or request id, 'unsure', '', '', ''
-- The script does not ask whether this is still the same server: a leader whose lease goes on may renew it on any
-- server that has its state, and a campaign asks before anything else.
local candidate_id, ttl = ARGV[2], ARGV[4]
local state = redis.call('HMGET', KEYS[3], 'kind', 'token', 'holder')
local lock = redis.call('GET', KEYS[1])
local own = state[1] == 'lease' and state[2] == ARGV[3] and state[3] == candidate_id
if not own or lock and lock ~= candidate_id then return {ok = ARGV[1] .. ' unsure   '} end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', KEYS[2], ARGV[5], 'PX', ttl, 'GET')  -- GET: an error if it is a key of another type
redis.call('SET', KEYS[1], candidate_id, 'PX', ttl)
local until_ = string.format('%.0f', now + ttl)
redis.call('HSET', KEYS[3], 'until', until_, 'request', ARGV[1])
local version = 'lease:' .. ARGV[3] .. ':' .. until_ .. ':' .. ARGV[1]
local mail = redis.call('EXISTS', KEYS[4])
return {ok = ARGV[1] .. ' renewed ' .. string.format('%.0f', now) .. ' ' .. version .. ' ' .. mail}
