-- The mark of a fence at a server that is not the election's: raise it to the token of a term. It never goes down.
--
-- KEYS  1 mark   string, a token
-- ARGV  1 request id   2 token of the term
-- Reply the request id
local found = redis.call('GET', KEYS[1])
local highest = found and #found <= 16 and string.match(found, '^%d+$') and tonumber(found) or -1
if highest < tonumber(ARGV[2]) then redis.call('SET', KEYS[1], ARGV[2]) end
return ARGV[1]
