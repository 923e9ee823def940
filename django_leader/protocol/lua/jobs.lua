-- What is recorded of jobs. Changes nothing.
--
-- KEYS  1 slots: see claim.lua
-- ARGV  1 request id   2 and on: the names of jobs
-- Reply {request id, now (server's ms), the record of each job, or ''}
local time = redis.call('TIME')
local reply = {ARGV[1], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))}
for index = 2, #ARGV do
  local record = redis.call('HMGET', KEYS[1], 'job:' .. ARGV[index])[1] or ''
  reply[#reply + 1] = #record <= 4096 and record or ''
end
return reply
