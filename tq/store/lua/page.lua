-- page: the next members of a cohort in their stable order.
-- ARGV: now, task, cohort, place after which to begin (-1: at the start), last place (inclusive),
--       how many members to return, about: places are evenly spread, so a stretch of them is read
-- Returns the place up to which everybody has been returned; then per member: user, place, settings
-- ('' when there are none), and when (ms) it changed its cohort and its zone lately ('' when not).
-- All cells are read at one instant, so nobody who moves between them is passed over or met twice.
-- include: places
-- include: cohorts
local task, cohort = ARGV[2], ARGV[3]
local after, upto, wanted = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local PLACES = 2147483648
local cells, size = cells_of(task, cohort)
local reached = upto
if size > wanted then reached = math.min(upto, after + math.ceil(wanted / size * PLACES)) end
local users, answer = {}, { reached }
for _, cell in ipairs(cells) do
  local branches = K.branches(task, cell)
  local from = leaf_start(branches, after + 1)
  for _, start in ipairs(redis.call('ZRANGEBYSCORE', branches, from, reached)) do
    local entries = redis.call('ZRANGEBYSCORE', K.leaf(task, cell, start), '(' .. after, reached, 'WITHSCORES')
    for i = 1, #entries, 2 do
      table.insert(users, entries[i])
      table.insert(answer, entries[i])
      table.insert(answer, entries[i + 1])
      for _ = 1, 3 do table.insert(answer, '') end
    end
  end
end
if #users == 0 then return answer end

local function look_up(command, key, column)
  if redis.call('EXISTS', key) == 0 then return end
  for first = 1, #users, 1000 do
    local found = redis.call(command, key, unpack(users, first, math.min(first + 999, #users)))
    for i = 1, #found do
      if found[i] then answer[1 + 5 * (first + i - 2) + column] = found[i] end
    end
  end
end
look_up('HMGET', K.settings(task), 3)
look_up('ZMSCORE', K.moved(task), 4)
look_up('ZMSCORE', K.rezoned(), 5)
return answer
