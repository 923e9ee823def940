-- The newest changes of leadership, the newest first. Changes nothing.
--
-- KEYS  as in state.lua
-- ARGV  1 request id   2 how many
-- Reply {request id, id, kind, reason, holder, token, id, ...}
-- Of a text at most 2,048 bytes. Behind a megabyte the list ends: others have written what makes it long.
local reply, last, size = {ARGV[1]}, '+', 0
for _ = 1, tonumber(ARGV[2]) do
  local entry = redis.call('XREVRANGE', KEYS[5], last, '-', 'COUNT', 1)[1]
  if not entry or size > 1048576 then break end
  local values = {}
  for index = 1, #entry[2], 2 do
    values[entry[2][index]] = string.sub(entry[2][index + 1], 1, 2048)
    size = size + #entry[2][index] + #entry[2][index + 1]
  end
  for _, text in ipairs({entry[1], values.kind or '', values.reason or '', values.holder or '', values.token or ''}) do
    reply[#reply + 1] = text
  end
  last = '(' .. entry[1]
end
return reply
