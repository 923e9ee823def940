-- The messages in an inbox, which are taken out.
--
-- KEYS  1 inbox   list
-- ARGV  1 request id   2 how many at the most   3 bytes of the longest
-- Reply {request id, message, ...}
-- A longer one is none of ours. The inbox is then emptied, since there may be more of its kind.
local reply = {ARGV[1]}
while #reply <= tonumber(ARGV[2]) do
  local message = redis.call('LPOP', KEYS[1])
  if not message then break end
  if #message > tonumber(ARGV[3]) then
    redis.call('DEL', KEYS[1])
    break
  end
  reply[#reply + 1] = message
end
return reply
