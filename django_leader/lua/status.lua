-- Who leads, for whoever asks. Changes nothing.
--
-- KEYS  as in campaign.lua
-- ARGV  1 echo
-- Reply {echo, me of the holder or '', ms left of the lease, info, highest token granted, candidates}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {
  ARGV[1],
  redis.call('GET', KEYS[1]) or '',
  math.max(redis.call('PTTL', KEYS[1]), 0),
  redis.call('GET', KEYS[2]) or '',
  redis.call('HGET', KEYS[3], 'token') or '0',
  redis.call('ZCOUNT', KEYS[4], string.format('%.0f', now), '+inf'),
}
