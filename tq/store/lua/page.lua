-- page: the next members of a share in their stable order: those of its cohort, and those who are
-- listed with the run itself, because it was asked for them or because they have left the cohort
-- since it was claimed.
-- ARGV: now, task, cohort, place after which to begin (-1: at the start), last place (inclusive),
--       how many members to return, about: places are evenly spread, so a stretch of them is read;
--       the run and the share ('' and 0 to read a cohort by itself)
-- Returns the place up to which everybody has been returned, and a count of how often anybody has
-- left the task; then per member: user, place, settings ('' when there are none), and when (ms) it
-- changed its cohort and its zone lately ('' when not; of who is listed, before it left).
-- All cells are read at one instant, so nobody who moves between them is passed over or met twice.
-- include: places
-- include: cohorts
-- include: enabled
local task, cohort = ARGV[2], ARGV[3]
local after, upto, wanted = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local listed = K.members(ARGV[7], ARGV[8])
local PLACES = 2147483648
local FIELDS, HEAD = 5, 2
local cells, size = cells_of(task, cohort)
size = size + redis.call('ZCARD', listed)
local reached = upto
if size > wanted then reached = math.min(upto, after + math.ceil(wanted / size * PLACES)) end
local users, answer = {}, { reached, redis.call('GET', K.departures(task)) or '0' }

local function add(user, place, settings, rezoned)
  table.insert(answer, user)
  table.insert(answer, place)
  table.insert(answer, settings)
  table.insert(answer, '')
  table.insert(answer, rezoned)
end

for _, cell in ipairs(cells) do
  local branches = K.branches(task, cell)
  local from = leaf_start(branches, after + 1)
  for _, start in ipairs(redis.call('ZRANGEBYSCORE', branches, from, reached)) do
    local entries = redis.call('ZRANGEBYSCORE', K.leaf(task, cell, start), '(' .. after, reached, 'WITHSCORES')
    for i = 1, #entries, 2 do
      table.insert(users, entries[i])
      add(entries[i], entries[i + 1], '', '')
    end
  end
end

local function look_up(command, key, column)
  if redis.call('EXISTS', key) == 0 then return end
  for first = 1, #users, 1000 do
    local found = redis.call(command, key, unpack(users, first, math.min(first + 999, #users)))
    for i = 1, #found do
      if found[i] then answer[HEAD + FIELDS * (first + i - 2) + column] = found[i] end
    end
  end
end
if #users > 0 then
  look_up('HMGET', K.settings(task), 3)
  look_up('ZMSCORE', K.moved(task), 4)
  look_up('ZMSCORE', K.rezoned(), 5)
end

local entries = redis.call('ZRANGEBYSCORE', listed, '(' .. after, reached, 'WITHSCORES')
for i = 1, #entries, 2 do
  if is_enabled(task, entries[i]) then
    local settings = redis.call('HGET', K.settings(task), entries[i]) or ''
    local rezoned = redis.call('HGET', K.travelled(ARGV[7], ARGV[8]), entries[i]) or ''
    add(entries[i], entries[i + 1], settings, rezoned)
  end
end
return answer
