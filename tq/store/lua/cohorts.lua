-- cohorts: the users of a task that fall due together.
-- Members are kept in cells `zone|interval`, one per time zone that they live in, so that no edit of
-- a task's interval moves anybody. A cohort is what falls due together: one cell where the interval
-- uses the user's zone (`Europe/Berlin|default`), else the cells of all zones (`*|default`). A run
-- that somebody asks for has everybody in one: `*|*`.
local function uses_user_zone(canonical)
  return string.sub(canonical, -5) == '@user'
end

-- The cohort that a cell belongs to; nil while the task that decides it is not published.
local function cohort_of(task, cell)
  local zone, interval = string.match(cell, '^([^|]*)|(.*)$')
  local canonical = interval
  if interval == 'default' then
    local definition = redis.call('HGET', K.definitions(), task)
    if not definition then return nil end
    canonical = string.match(definition, '^[^|]*|(.*)$')
  end
  return (uses_user_zone(canonical) and zone or '*') .. '|' .. interval
end

local function is_in(cell, cohort)
  local zone, interval = string.match(cohort, '^([^|]*)|(.*)$')
  local cell_zone, cell_interval = string.match(cell, '^([^|]*)|(.*)$')
  return zone ~= nil and (interval == '*' or interval == cell_interval) and (zone == '*' or zone == cell_zone)
end

-- How many members each cohort has that can fall due, whatever the task's interval is.
local function members_by_cohort(task)
  local members = {}
  local all = redis.call('HGETALL', K.cells(task))
  for i = 1, #all, 2 do
    local zone, interval = string.match(all[i], '^([^|]*)|(.*)$')
    for _, cohort in ipairs({ zone .. '|' .. interval, '*|' .. interval }) do
      members[cohort] = (members[cohort] or 0) + tonumber(all[i + 1])
    end
  end
  return members
end

-- The cells of a cohort that have members, and how many members they have together.
local function cells_of(task, cohort)
  local cells, members = {}, 0
  local all = redis.call('HGETALL', K.cells(task))
  for i = 1, #all, 2 do
    if is_in(all[i], cohort) then
      table.insert(cells, all[i])
      members = members + tonumber(all[i + 1])
    end
  end
  return cells, members
end
