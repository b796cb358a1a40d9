-- enrol: change what users have enabled, in both directions at once: the cell that a user belongs
-- to (users of a task) and the user's own record (tasks of a user).
-- ARGV[1] now   ARGV[2] results kept per user and task   ARGV[3] their life, s
-- then, per change, eight texts: operation, user, task, zone, interval, and the settings' own
-- interval, parameters, reason. '=' keeps what is there, '' means none.
--   set    enable the task for the user, with these settings
--   off    disable it; settings are kept, so that enabling again restores them. In place of the
--          interval stands a run whose job is not ended, because its end is about to be recorded
--   zone   the user lives in another zone: every cell changes with it
--   forget delete the user and everything known of it
-- Jobs that wait for a user whose task is switched off end at once as skipped(disabled).
-- Returns per change 1 (something changed) or 0.
-- include: now
-- include: places
-- include: cohorts
-- include: ledger
-- include: skip
local history, ttl_s = tonumber(ARGV[2]), tonumber(ARGV[3])
local MOVES_KEPT_MS = 2 * 24 * 3600 * 1000 -- a run that was due before the move has ended by then

-- Members of a cell ---------------------------------------------------------------------------

local function halve(task, cell, leaf)
  local entries = redis.call('ZRANGE', leaf, 0, -1, 'WITHSCORES')
  local half = LEAF_SIZE / 2
  local cut
  for i = half + 1, #entries / 2 do
    if entries[2 * i] ~= entries[2 * (i - 1)] then cut = i; break end
  end
  if not cut then return end -- all of one place: an order cannot part them
  local from = entries[2 * cut]
  add_leaf(K.branches(task, cell), from)
  local upper = K.leaf(task, cell, from)
  for i = cut, #entries / 2 do redis.call('ZADD', upper, entries[2 * i], entries[2 * i - 1]) end
  redis.call('ZREMRANGEBYSCORE', leaf, from, '+inf')
end

local function join_cell(task, cell, user)
  local place = place_of(task .. '|' .. user)
  local branches = K.branches(task, cell)
  local start = leaf_start(branches, place) or add_leaf(branches, 0)
  local leaf = K.leaf(task, cell, start)
  if redis.call('ZSCORE', leaf, user) then return end
  if redis.call('ZCARD', leaf) >= LEAF_SIZE then
    halve(task, cell, leaf)
    leaf = K.leaf(task, cell, leaf_start(branches, place))
  end
  redis.call('ZADD', leaf, place, user)
  if redis.call('HINCRBY', K.cells(task), cell, 1) == 1 then
    local cohort = cohort_of(task, cell)
    if cohort then redis.call('ZADD', K.due(), 'NX', now + 1, task .. '|' .. cohort) end
  end
end

local function leave_cell(task, cell, user)
  local place = place_of(task .. '|' .. user)
  local branches = K.branches(task, cell)
  local start = leaf_start(branches, place)
  if not start then return end
  local leaf = K.leaf(task, cell, start)
  if redis.call('ZREM', leaf, user) == 0 then return end
  redis.call('INCR', K.departures(task))
  if start ~= '0' and redis.call('EXISTS', leaf) == 0 then redis.call('ZREM', branches, start) end
  if redis.call('HINCRBY', K.cells(task), cell, -1) <= 0 then
    redis.call('HDEL', K.cells(task), cell)
    redis.call('DEL', branches)
    -- An entry without members would outlive an edit of the task, which finds entries by their cells.
    local cohort = cohort_of(task, cell)
    if cohort then
      local _, members = cells_of(task, cohort)
      if members == 0 then redis.call('ZREM', K.due(), task .. '|' .. cohort) end
    end
  end
end

-- The record of a user -----------------------------------------------------------------------
-- `zone +enabled -disabled`; `*` in place of `+` and `/` in place of `-`: there are settings.

local function user_leaf_of(user)
  local place = place_of(user)
  local start = leaf_start(K.user_branches(), place) or add_leaf(K.user_branches(), 0)
  return K.user_leaf(start), start
end

local function read_user(user)
  local leaf = user_leaf_of(user)
  local text = redis.call('HGET', leaf, user)
  if not text then return nil end
  local record = { tasks = {}, order = {} }
  for word in string.gmatch(text, '%S+') do
    if not record.zone then
      record.zone = word
    else
      local task = string.sub(word, 2)
      record.tasks[task] = string.sub(word, 1, 1)
      table.insert(record.order, task)
    end
  end
  return record
end

local function halve_users(leaf)
  local entries = redis.call('HGETALL', leaf)
  local users = {}
  for i = 1, #entries, 2 do
    table.insert(users, { place = place_of(entries[i]), name = entries[i], text = entries[i + 1] })
  end
  table.sort(users, function(a, b) return a.place < b.place end)
  local cut
  for i = LEAF_SIZE / 2 + 1, #users do
    if users[i].place ~= users[i - 1].place then cut = i; break end
  end
  if not cut then return end
  local upper = K.user_leaf(add_leaf(K.user_branches(), users[cut].place))
  for i = cut, #users do
    redis.call('HSET', upper, users[i].name, users[i].text)
    redis.call('HDEL', leaf, users[i].name)
  end
end

local function write_user(user, record)
  local words = { record.zone }
  for _, task in ipairs(record.order) do
    if record.tasks[task] then table.insert(words, record.tasks[task] .. task) end
  end
  local leaf = user_leaf_of(user)
  if redis.call('HLEN', leaf) >= LEAF_SIZE and redis.call('HEXISTS', leaf, user) == 0 then
    halve_users(leaf)
    leaf = user_leaf_of(user)
  end
  redis.call('HSET', leaf, user, table.concat(words, ' '))
end

local function delete_user(user)
  local leaf, start = user_leaf_of(user)
  redis.call('HDEL', leaf, user)
  if start ~= '0' and redis.call('EXISTS', leaf) == 0 then redis.call('ZREM', K.user_branches(), start) end
end

-- Settings: four lines, canonical interval, interval, parameters, reason ------------------------

local function read_settings(task, user, mark)
  if mark ~= '*' and mark ~= '/' then return { 'default', '', '', '' } end
  local text = redis.call('HGET', K.settings(task), user) or ''
  local lines = {}
  for line in string.gmatch(text .. '\n', '([^\n]*)\n') do table.insert(lines, line) end
  if #lines ~= 4 then return { 'default', '', '', '' } end
  return lines
end

local function write_settings(task, user, settings)
  if settings[1] == 'default' and settings[3] == '' and settings[4] == '' then
    redis.call('HDEL', K.settings(task), user)
    return false
  end
  redis.call('HSET', K.settings(task), user, table.concat(settings, '\n'))
  return true
end

-- Changes ------------------------------------------------------------------------------------

-- What is claimed stays: who leaves the cohort of a scheduled run before being reached is listed with
-- the run. Who came into that cohort after the run's nominal time has no part in it.
local function stay_in_claimed_runs(task, cell, new_cell, user)
  local place = place_of(task .. '|' .. user)
  local moved_at = tonumber(redis.call('ZSCORE', K.moved(task), user) or '0')
  local rezoned_at = tonumber(redis.call('ZSCORE', K.rezoned(), user) or '0')
  for _, run in ipairs(redis.call('SMEMBERS', K.active(task))) do
    local kind, nominal, shares = unpack(redis.call('HMGET', K.run(run), 'kind', 'nominal_at', 'shares'))
    nominal = tonumber(nominal)
    if kind == 'schedule' and moved_at < nominal then
      for share = 0, tonumber(shares) - 1 do
        local cohort, cursor, done, first = unpack(redis.call('HMGET', K.shares(run), share .. ':cohort',
          share .. ':cursor', share .. ':done', share .. ':first'))
        local position = position_of(place, tonumber(first or '0'))
        local was_there = string.sub(cohort, 1, 1) == '*' or rezoned_at < nominal
        if done == '0' and tonumber(cursor) < position and was_there
          and is_in(cell, cohort) and not is_in(new_cell, cohort) then
          redis.call('ZADD', K.members(run, share), place, user)
          -- Who came there by a change of zone may have had that date's turn elsewhere.
          if rezoned_at > 0 then redis.call('HSET', K.travelled(run, share), user, string.format('%d', rezoned_at)) end
        end
      end
    end
  end
end

local function forget_in_runs(task, user)
  for _, run in ipairs(redis.call('SMEMBERS', K.active(task))) do
    for share = 0, tonumber(redis.call('HGET', K.run(run), 'shares')) - 1 do
      redis.call('ZREM', K.members(run, share), user)
      redis.call('HDEL', K.travelled(run, share), user)
    end
  end
end

local function moved(task, user)
  redis.call('ZADD', K.moved(task), now, user)
  redis.call('ZREMRANGEBYSCORE', K.moved(task), '-inf', now - MOVES_KEPT_MS)
end

local function set(user, task, canonical, interval, parameters)
  local record = read_user(user) or { zone = 'UTC', tasks = {}, order = {} }
  local mark = record.tasks[task]
  local settings = read_settings(task, user, mark)
  local before = record.zone .. '|' .. settings[1]
  local parameters_before = settings[3]
  if canonical ~= '=' then settings[1], settings[2] = canonical, interval end
  if parameters ~= '=' then settings[3] = parameters end
  settings[4] = ''
  local after = record.zone .. '|' .. settings[1]
  local was_on = mark == '+' or mark == '*'
  if not mark then table.insert(record.order, task) end
  record.tasks[task] = write_settings(task, user, settings) and '*' or '+'
  if was_on and before ~= after then
    stay_in_claimed_runs(task, before, after, user)
    leave_cell(task, before, user)
  end
  if mark and before ~= after then moved(task, user) end
  write_user(user, record)
  join_cell(task, after, user)
  return (not was_on or before ~= after or parameters_before ~= settings[3]) and 1 or 0
end

local function off(user, task, reason, spared_run)
  local record = read_user(user)
  local mark = record and record.tasks[task]
  if mark ~= '+' and mark ~= '*' then return 0 end
  local settings = read_settings(task, user, mark)
  settings[4] = reason
  leave_cell(task, record.zone .. '|' .. settings[1], user)
  record.tasks[task] = write_settings(task, user, settings) and '/' or '-'
  write_user(user, record)
  skip_open_jobs(task, user, 'disabled', spared_run, now, history, ttl_s)
  return 1
end

local function live_in(user, zone)
  local record = read_user(user)
  if not record then
    write_user(user, { zone = zone, tasks = {}, order = {} })
    return 1
  end
  if record.zone == zone then return 0 end
  for _, task in ipairs(record.order) do
    local mark = record.tasks[task]
    if mark == '+' or mark == '*' then
      local interval = read_settings(task, user, mark)[1]
      stay_in_claimed_runs(task, record.zone .. '|' .. interval, zone .. '|' .. interval, user)
      -- In this order, so that a cohort of all zones keeps its due entry.
      join_cell(task, zone .. '|' .. interval, user)
      leave_cell(task, record.zone .. '|' .. interval, user)
    end
  end
  record.zone = zone
  write_user(user, record)
  redis.call('ZADD', K.rezoned(), now, user)
  redis.call('ZREMRANGEBYSCORE', K.rezoned(), '-inf', now - MOVES_KEPT_MS)
  return 1
end

local function forget(user)
  local record = read_user(user)
  if not record then return 0 end
  for _, task in ipairs(record.order) do
    off(user, task, '')
    redis.call('HDEL', K.settings(task), user)
    forget_in_runs(task, user)
    redis.call('DEL', K.results(task, user))
    redis.call('ZREM', K.moved(task), user)
    redis.call('HDEL', K.user_pauses(), user .. '|' .. task)
  end
  redis.call('ZREM', K.rezoned(), user)
  redis.call('HDEL', K.user_pauses(), user)
  delete_user(user)
  return 1
end

local answers = {}
for i = 4, #ARGV, 8 do
  local operation, user, task, zone = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local canonical, interval, parameters, reason = ARGV[i + 4], ARGV[i + 5], ARGV[i + 6], ARGV[i + 7]
  local changed = 0
  if zone ~= '=' and operation ~= 'forget' then changed = live_in(user, zone) end
  if operation == 'set' then changed = math.max(changed, set(user, task, canonical, interval, parameters))
  elseif operation == 'off' then changed = math.max(changed, off(user, task, reason, canonical))
  elseif operation == 'forget' then changed = forget(user) end
  table.insert(answers, changed)
end
return answers
