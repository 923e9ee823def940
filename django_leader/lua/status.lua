-- Who leads, for whoever asks. Changes nothing.
--
-- KEYS  as in campaign.lua
-- ARGV  1 echo
-- Reply {echo, me of the holder or '', ms left of the lease, info, highest token granted, candidates}
--       no holder, but ms left: the last leader has ended, and keeps the lease so that nobody leads yet
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local holder = redis.call('GET', KEYS[1])
local last = redis.call('HMGET', KEYS[3], 'token', 'released')
if not holder or (last[1] and last[1] == last[2]) then holder = '' end
return {
  ARGV[1],
  holder,
  math.max(redis.call('PTTL', KEYS[1]), 0),
  redis.call('GET', KEYS[2]) or '',
  last[1] or '0',
  redis.call('ZCOUNT', KEYS[4], string.format('%.0f', now), '+inf'),
}
