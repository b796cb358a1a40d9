-- ledger: what every script does that ends a job or a share.
-- A job has ended when it is out of the open set; only who takes it out counts it, so counters
-- are exact however often a message is delivered.
local RUN_RETENTION_S = 90 * 24 * 3600

-- Ends the run when every share is passed and no job is open.
local function close_if_done(run, now)
  local run_key = K.run(run)
  local status, task, undone = unpack(redis.call('HMGET', run_key, 'status', 'task', 'undone'))
  if status ~= 'running' or tonumber(undone) > 0 or redis.call('HLEN', K.open(run)) > 0 then return false end
  local ended = redis.call('HEXISTS', run_key, 'cancelled_at') == 1 and 'cancelled' or 'ended'
  redis.call('HSET', run_key, 'status', ended, 'ended_at', now)
  redis.call('SREM', K.running(), run)
  redis.call('SREM', K.active(task), run)
  redis.call('ZREM', K.agenda(), 'd|' .. run)
  redis.call('HDEL', K.agenda_messages(), 'd|' .. run)
  for share = 0, tonumber(redis.call('HGET', run_key, 'shares')) - 1 do
    redis.call('DEL', K.members(run, share), K.travelled(run, share))
  end
  redis.call('EXPIRE', run_key, RUN_RETENTION_S)
  redis.call('EXPIRE', K.shares(run), RUN_RETENTION_S)
  return true
end

-- Of which share a job is, by its state.
local function share_of(state) return string.match(state, '^%d+|%d+|(%d+)|') end

-- Takes jobs of a run out of the open set, and off the agenda what waits there for them. Their states, by
-- user, say which shares they are of.
local function close_jobs(run, states)
  local users, entries, closed = {}, {}, {}
  for user, state in pairs(states) do
    local k, share = #users + 1, share_of(state)
    users[k], entries[2 * k - 1], entries[2 * k] = user, 'r|' .. run .. '|' .. user, 'p|' .. run .. '|' .. user
    closed[share] = (closed[share] or 0) + 1
  end
  redis.call('HDEL', K.open(run), unpack(users))
  if redis.call('ZREM', K.agenda(), unpack(entries)) > 0 then
    -- An entry and its message come and go together.
    for k = 1, #entries, 2 do
      local retry, put_off = entries[k], entries[k + 1]
      if redis.call('HDEL', K.agenda_messages(), retry) == 1 then redis.call('HINCRBY', K.run(run), 'waiting', -1) end
      redis.call('HDEL', K.agenda_messages(), put_off)
    end
  end
  for share, jobs in pairs(closed) do redis.call('HINCRBY', K.shares(run), share .. ':open', -jobs) end
end

-- Counts in the run, and in what all runs of its kind and task have come to: so the two always agree.
local function count(run, status, reason, jobs)
  local task, kind = unpack(redis.call('HMGET', K.run(run), 'task', 'kind'))
  local counted = reason == '' and { status } or { status, status .. ':' .. reason }
  for _, what in ipairs(counted) do
    redis.call('HINCRBY', K.run(run), what, jobs)
    redis.call('HINCRBY', K.totals(), task .. '|' .. kind .. '|' .. what, jobs)
  end
end

-- The result of a job that ends without another call, as pack_result in tq/store/results.py writes it.
local function unmade(run, status, reason, nominal, calls, now)
  return '["' .. run .. '","' .. status .. '","' .. reason .. '",' .. nominal .. ',0,'
    .. string.format('%d', now) .. ',0,' .. calls .. ',0]'
end

local function add_result(task, user, result, history, ttl_s)
  local key = K.results(task, user)
  if redis.call('LPUSH', key, result) > history then redis.call('LTRIM', key, 0, history - 1) end
  redis.call('EXPIRE', key, ttl_s)
end
