-- Who leads, and what has become of an order; with '1' it is withdrawn if nobody has begun it. See orders.py.
--
-- KEYS  1 state   the election's: see state.lua
--       2 order   hash, PX: see order.lua
-- ARGV  1 request id   2 '1': withdraw it, so that nobody begins it any more
-- Reply {request id, now (server's ms), candidate id of the leader or '', its token, state of the order or '' if there
--       is none, at, process, took, error}
-- Of a text at most 2,048 bytes.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local state = redis.call('HMGET', KEYS[1], 'kind', 'token', 'until', 'holder')
local found = redis.call('HMGET', KEYS[2], 'state', 'at', 'process', 'took', 'error')
local until_ = state[3] and #state[3] <= 16 and tonumber(state[3]) or 0
local led = (state[1] == 'lease' or state[1] == 'reclaimed') and until_ > now
if ARGV[2] == '1' and found[1] == 'waiting' then
  redis.call('HSET', KEYS[2], 'state', 'withdrawn')
  found[1] = 'withdrawn'
end
local reply = {ARGV[1], string.format('%.0f', now), led and state[4] or '', led and state[2] or '0'}
for index = 1, 5 do reply[#reply + 1] = string.sub(found[index] or '', 1, 2048) end
return reply
