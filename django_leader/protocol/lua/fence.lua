-- The beginning of every fenced write: refuse it unless the term of its writer leads, in the same step as the write.
--
-- KEYS  1 the mark of the fence: the election's state (see state.lua), or a string with the highest token
--       and those of the write
-- ARGV  1 'state' or 'token': what the mark is   2 token of the writer's term
--       and those of the write
-- Reply that of the write, which follows this text and finds its own KEYS and ARGV; or an error, and nothing is written:
--       'STALETOKEN'  a later term was granted, or the lease of this one is over
--       'UNMARKED'    the mark is gone, or is a state that is older than the term: data were lost. Or, of a string, no
--                     term has raised it yet
-- A string is raised by the first write of a later term, too.
do
  local mine, verdict = tonumber(ARGV[2]), nil
  local function number(text) return text and #text <= 16 and string.match(text, '^%d+$') and tonumber(text) or -1 end
  if ARGV[1] == 'state' then
    local found = redis.call('HMGET', KEYS[1], 'kind', 'token', 'until')
    local token, time = number(found[2]), redis.call('TIME')
    local led = found[1] == 'lease' or found[1] == 'reclaimed'
    if token < mine or token == mine and found[1] == 'quarantine' then
      verdict = 'UNMARKED'
    elseif token > mine or not led or number(found[3]) <= time[1] * 1000 + math.floor(time[2] / 1000) then
      verdict = 'STALETOKEN'
    end
  else
    local highest = number(redis.call('GET', KEYS[1]))
    if highest < 0 then verdict = 'UNMARKED' elseif highest > mine then verdict = 'STALETOKEN' end
    if not verdict and highest < mine then redis.call('SET', KEYS[1], ARGV[2]) end
  end
  if verdict then return redis.error_reply(verdict .. ' nothing was written') end
end
local function rest(words, first)
  local own = {}
  for index = first, #words do own[index - first + 1] = words[index] end
  return own
end
local KEYS, ARGV = rest(KEYS, 2), rest(ARGV, 3)
