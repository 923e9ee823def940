-- The common beginning of campaign, reclaim and release: read what Redis knows of the election, and whether data were
-- lost.
--
-- KEYS  1 lock        string, PX   candidate id of the holder, for readers; the state decides
--       2 info        string, PX   LeaderInfo as JSON
--       3 state       hash         kind     'lease'       granted to the holder, until `until`
--                                           'reclaimed'   the same, but set again by its holder after a loss of data,
--                                                         or granted again because a reply was lost; until the next
--                                                         heartbeat
--                                           'quarantine'  data were lost: nobody may lead until `until`
--                                           'delay'       released, and nobody may lead until `until`
--                                           'free'        released
--                                  token    the highest that was granted or heard of
--                                  holder   candidate id of the one that was granted last
--                                  until    server's time in ms
--                                  duration ms between the instant at which the state was set and `until`
--                                  request  id of the request that set it
--                                  server_id      which server this is
--                                  replica_syncs  how often replicas have joined this server; only with MIN_REPLICAS
--                                  replicas       addresses of those that were attached; only with MIN_REPLICAS
--                                  recorded token of the last term whose end a candidate has written to the history
--                                  process  of the holder, so that a candidate on its host can see it die (pidfd.py);
--                                           of a 'delay' what the clocks of its host showed (hold.py); or ''
--                                  memory   a text that each loss of data makes anew: records of jobs with another one
--                                           may be older than what was lost (claim.lua)
--                                  began    server's ms when the last term was granted; later if candidates have seen
--                                           the server's clock show a later time. It never falls.
--       4 candidates  zset, PX     candidate id -> server's ms up to which it counts
--       5 events      stream       the history
--       6 wake        list, PX     one element for each follower to wake
-- ARGV  1 request id: a number that grows with each request of a process   2 candidate id
--       3 highest token that the caller has seen   4 quarantine, ms
--       5 how many replicas must have a grant (0: replicas are not looked at)
--       6 not after: server's ms after which the request is too old to be executed, or 0. For a leader that is the end
--         of its lease, so whatever it changes it changes while nobody else can lead, on whatever server. The exception
--         is a leader that is dead and whose lease another candidate on its host has claimed: see reclaim.lua
-- Reply lines of text: request id, verdict ('late', or what the script says), token, ms left by the server's clock,
--       candidates, now (server's ms), version, duration, began, duplicate, the holder's process, holder. The version
--       names the state as the script leaves it; every change makes another.
--
-- Values that others have forged are read up to a size and believed up to a number, because nobody may be locked out
-- for ever. A lock that is too long is shown by its size. A state is garbage if it is too long, if it lasts longer
-- than any lease can, or if it has a token that the protocol cannot have made. A grant takes the token after the last
-- one, or the server's time in microseconds if that is higher; the time counts up to 2^52 (the year 2112). A token is
-- believed if it is less than 2^52 above that time. Time passes faster than tokens are granted, and no clock stands
-- before 1970. So whatever the clock shows, no token is lost that was granted without a forged one before it. The same
-- is true of the highest token of a caller, because the candidates that have seen a forged token would bring it back.
--
-- The state is lost when it is absent or garbage, when it is another server's (a restart or a promotion changes
-- master_replid), or when the caller knows a higher token. With MIN_REPLICAS it is also lost when a replica has joined,
-- because that replica may have confirmed the last lease of another primary. The first script
-- that finds this writes the quarantine, which then binds all candidates.
--
-- A join is told in two ways, because CONFIG RESETSTAT sets the counters to 0: by the server's count of joins, and by
-- an address that was not attached before. A replica that leaves is taken from the record, so that its return is a
-- join. One case is not told: a replica leaves and returns while none of these three scripts runs, and meanwhile the
-- counters were reset and have come to the very same numbers again. (Where too few replicas are left a lease ends, and
-- then one of the scripts does run.)
local request_id, candidate_id = ARGV[1], ARGV[2]
local BYTES, LONGEST = 32768, 366 * 86400000  -- of what is read of one key; ms of a lease
local quarantine, replicas = tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function int(number) return string.format('%.0f', number) end
local length = redis.call('STRLEN', KEYS[1])
local lock = length > BYTES and '(' .. int(length) .. ' bytes)' or redis.call('GET', KEYS[1])
local found = redis.call('HMGET', KEYS[3], 'kind', 'token', 'until', 'duration', 'request', 'holder', 'server_id',
  'replica_syncs', 'recorded', 'process', 'replicas', 'began')
-- A key of a wrong type is an error here, before anything is written: it is not ours, and never deleted.
redis.call('STRLEN', KEYS[2])
local candidates = redis.call('ZCARD', KEYS[4])

local function number(text, limit)
  local value = text and #text <= 16 and string.match(text, '^%d+$') and tonumber(text)
  return value and value < (limit or 2 ^ 53) and value
end
local clock = math.min(time[1] * 1000000 + time[2], 2 ^ 52)  -- what the server's time gives to a token
local function believed(text) return number(text, clock + 2 ^ 52) end
local highest_token = believed(ARGV[3]) or -1
local size = 0
for index = 1, 12 do size = size + #(found[index] or '') end
if size > BYTES then
  redis.call('DEL', KEYS[3])
  found = {}
end
local function remember(event, reason, holder, token)
  redis.call('XADD', KEYS[5], 'MAXLEN', '~', 1000, '*',
    'kind', event, 'reason', reason, 'holder', holder, 'token', token)
end
local function info(section)
  local answer = redis.pcall('INFO', section)  -- an ACL may deny it
  return type(answer) == 'string' and answer or ''
end

local replication = info('replication')
local server_id, replica_syncs, attached = string.match(replication, 'master_replid:(%w+)') or '', '', ''
local joined = false
if replicas > 0 then
  local full, partial = string.match(info('stats'), 'sync_full:(%d+).-sync_partial_ok:(%d+)')
  if server_id == '' or not full then return redis.error_reply('NOPERM MIN_REPLICAS needs INFO') end
  replica_syncs = full .. '+' .. partial
  local known, addresses = {}, {}  -- several behind one router may share an address, so they are counted
  for address in string.gmatch(found[11] or '', '%S+') do known[address] = (known[address] or 0) + 1 end
  for ip, port in string.gmatch(replication, 'slave%d+:ip=([^,%s]*),port=(%d+)') do
    local address = ip .. ':' .. port
    addresses[#addresses + 1] = address
    known[address] = (known[address] or 0) - 1
    joined = joined or known[address] < 0
  end
  table.sort(addresses)
  attached = table.concat(addresses, ' ')
  joined = joined or replica_syncs ~= found[8]
end

local kinds = {lease = true, reclaimed = true, quarantine = true, delay = true, free = true}
local kind, holder = kinds[found[1]] and found[1], found[6]
local token, until_ = believed(found[2]), number(found[3])
local duration, request = number(found[4], LONGEST + 1), number(found[5])
local process, began, lost = found[10] or '', number(found[12]) or 0, false
if not (kind and holder and token and until_ and duration and request) then lost = 'state lost'
elseif server_id ~= '' and server_id ~= found[7] then lost = 'another server'
elseif token < highest_token then lost = 'older state'
elseif joined then lost = 'replica joined' end

local function save()
  redis.call('HSET', KEYS[3], 'kind', kind, 'token', int(token), 'holder', holder, 'until', int(until_),
    'duration', int(duration), 'request', int(request), 'process', process,
    'server_id', server_id ~= '' and server_id or found[7] or '',
    'replica_syncs', replica_syncs ~= '' and replica_syncs or found[8] or '',
    'replicas', replicas > 0 and attached or found[11] or '', 'began', int(began))
end
if lost then
  redis.call('XLEN', KEYS[5])
  -- Of a lock alone it cannot be said when its lease ends, but the quarantine lasts at least as long.
  holder = holder or lock and string.match(string.sub(lock, -17), '^:%x+$') and lock or ''
  kind, token = 'quarantine', math.max(token or 0, highest_token, 0)
  until_, duration, request = now + quarantine, quarantine, request_id
  process = ''
  if quarantine == 0 then kind = 'free' end
  save()
  redis.call('HSET', KEYS[3], 'memory', int(now) .. '-' .. request_id .. '-' .. string.sub(candidate_id, -16))
  if quarantine > 0 then remember('quarantined', lost, candidate_id, int(token)) end
elseif replicas > 0 and attached ~= found[11] then
  redis.call('HSET', KEYS[3], 'replicas', attached)
end
local function version() return kind .. ':' .. int(token) .. ':' .. int(until_) .. ':' .. int(request) end
local function answer(verdict, who, left, duplicate)
  local numbers = {int(token), int(left), candidates, int(now), version(), int(duration), int(began)}
  return table.concat({request_id, verdict, table.concat(numbers, '\n'), duplicate or '', process, who}, '\n')
end
local led = kind == 'lease' or kind == 'reclaimed'
if tonumber(ARGV[6]) > 0 and now > tonumber(ARGV[6]) then return answer('late', '', 0) end
