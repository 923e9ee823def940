-- A follower's poll of a lease that another candidate holds: all that a healthy follower does. It also tells Redis that
-- the candidate is there. It is as short as possible. It leaves a state that is not plainly such a lease as it is, and
-- to campaign.lua.
--
-- KEYS  1 lock   2 info   3 state   4 candidates: see state.lua
-- ARGV  1 request id   2 candidate id   3 ms for which the candidate counts without a sign of life
-- Reply as in state.lua, with the verdict 'held'; or two lines: request id, 'unsure'
-- The script does not ask whether this is still the same server: it grants nothing, and a campaign asks that.
local state = redis.call('HMGET', KEYS[3], 'kind', 'token', 'until', 'request', 'duration', 'process', 'holder')
local kind, token, until_, request, duration, process, holder = unpack(state)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function plain(text) return text and #text <= 16 and string.match(text, '^%d+$') end
local led = (kind == 'lease' or kind == 'reclaimed') and holder and process
led = led and plain(token) and plain(until_) and plain(duration) and plain(request) and #process + #holder <= 32768
-- A duration and a token as state.lua believes them.
led = led and tonumber(duration) <= 366 * 86400000 and tonumber(token) < math.min(now * 1000, 2 ^ 52) + 2 ^ 52
local left = led and until_ - now or 0
if left <= 0 or holder == ARGV[2] or redis.call('GET', KEYS[1]) ~= holder then return ARGV[1] .. '\nunsure' end

local function int(number) return string.format('%.0f', number) end
redis.call('ZADD', KEYS[4], int(now + ARGV[3]), ARGV[2])
redis.call('PEXPIRE', KEYS[4], ARGV[3])
local version = kind .. ':' .. token .. ':' .. until_ .. ':' .. request
local numbers = {token, int(left), redis.call('ZCOUNT', KEYS[4], int(now), '+inf'), int(now), version, duration, '0'}
return table.concat({ARGV[1], 'held', table.concat(numbers, '\n'), '', process, holder}, '\n')
