-- A message into the inbox of a candidate, which waits for it.
--
-- KEYS  1 inbox   list, PX
-- ARGV  1 request id   2 message, JSON   3 ms after which it is forgotten
-- Reply {request id}
redis.call('RPUSH', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {ARGV[1]}
