-- page: the next members of a share in their stable order: those of its cohort, and those who are
-- listed with the run itself, because it was asked for them or because they have left the cohort
-- since it was claimed.
-- ARGV: now, task, cohort, place after which to begin (-1: at the start), last place (inclusive),
--       how many members to return, about: places are evenly spread, so a stretch of them is read;
--       the run and the share ('' and 0 to read a cohort by itself)
-- Returns the place up to which everybody has been returned, and a count of how often anybody has
-- left the task; then lists: of users, of their places, and, each entry after the number of its user
-- (from 0), of settings where there are any, and of when (ms) users changed their cohort and their zone
-- lately (of who is listed, before it left).
-- All cells are read at one instant, so nobody who moves between them is passed over or met twice.
-- include: places
-- include: cohorts
-- include: enabled
local task, cohort = ARGV[2], ARGV[3]
local after, upto, wanted = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local listed = K.members(ARGV[7], ARGV[8])
local cells, size = cells_of(task, cohort)
size = size + redis.call('ZCARD', listed)
local reached = upto
if size > wanted then reached = math.min(upto, after + math.ceil(wanted / size * PLACES)) end
local users, places, met = {}, {}, 0
local all_settings, moved, rezoned = {}, {}, {}

local function note(list, number, text)
  list[#list + 1] = number - 1
  list[#list + 1] = text
end

for _, cell in ipairs(cells) do
  local branches = K.branches(task, cell)
  local from = leaf_start(branches, after + 1)
  for _, start in ipairs(redis.call('ZRANGEBYSCORE', branches, from, reached)) do
    local entries = redis.call('ZRANGEBYSCORE', K.leaf(task, cell, start), '(' .. after, reached, 'WITHSCORES')
    for i = 1, #entries, 2 do
      met = met + 1
      users[met], places[met] = entries[i], entries[i + 1]
    end
  end
end

local function look_up(command, key, list)
  if redis.call('EXISTS', key) == 0 then return end
  for first = 1, #users, 1000 do
    local found = redis.call(command, key, unpack(users, first, math.min(first + 999, #users)))
    for i = 1, #found do
      if found[i] then note(list, first + i - 1, found[i]) end
    end
  end
end
if #users > 0 then
  look_up('HMGET', K.settings(task), all_settings)
  look_up('ZMSCORE', K.moved(task), moved)
  look_up('ZMSCORE', K.rezoned(), rezoned)
end

local entries = redis.call('ZRANGEBYSCORE', listed, '(' .. after, reached, 'WITHSCORES')
for i = 1, #entries, 2 do
  local user = entries[i]
  if is_enabled(task, user) then
    met = met + 1
    users[met], places[met] = user, entries[i + 1]
    local settings = redis.call('HGET', K.settings(task), user)
    if settings then note(all_settings, met, settings) end
    local rezoned_before = redis.call('HGET', K.travelled(ARGV[7], ARGV[8]), user)
    if rezoned_before then note(rezoned, met, rezoned_before) end
  end
end
return { reached, redis.call('GET', K.departures(task)) or '0', users, places, all_settings, moved, rezoned }
