-- How a follower looks at a lease that another one holds: all that a healthy follower does. Tells Redis, too, that it
-- takes part. As lean as can be; a state that is not plainly such a lease is left as it is, and to campaign.lua.
--
-- KEYS  1 lock   2 info   3 state   4 candidates: see state.lua
-- ARGV  1 echo   2 me   3 ms for which the candidate counts without a sign of life
-- Reply as in state.lua, with the verdict 'held'; or two lines: echo, 'unsure'
-- Whether this is still the same server is not asked: nothing is granted here, and who campaigns asks.
local state = redis.call('HMGET', KEYS[3], 'kind', 'token', 'until', 'request', 'span', 'process', 'holder')
local kind, token, until_, request, span, process, holder = unpack(state)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function plain(text) return text and #text <= 16 and string.match(text, '^%d+$') end
local led = (kind == 'lease' or kind == 'regained') and holder and process
led = led and plain(token) and plain(until_) and plain(span) and plain(request) and #process + #holder <= 32768
-- A span and a token as state.lua believes them.
led = led and tonumber(span) <= 366 * 86400000 and tonumber(token) < math.min(now * 1000, 2 ^ 52) + 2 ^ 52
local left = led and until_ - now or 0
if left <= 0 or holder == ARGV[2] or redis.call('GET', KEYS[1]) ~= holder then return ARGV[1] .. '\nunsure' end

local function int(number) return string.format('%.0f', number) end
redis.call('ZADD', KEYS[4], int(now + ARGV[3]), ARGV[2])
redis.call('PEXPIRE', KEYS[4], ARGV[3])
local version = kind .. ':' .. token .. ':' .. until_ .. ':' .. request
local numbers = {token, int(left), redis.call('ZCOUNT', KEYS[4], int(now), '+inf'), int(now), version, span}
return table.concat({ARGV[1], 'held', table.concat(numbers, '\n'), '', process, holder}, '\n')
