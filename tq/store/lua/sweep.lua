-- sweep: go through open jobs of a run, end those that may not be made any more, and name those for
-- which no message stands on the agenda.
-- ARGV: now, results kept per user and task, their life (s), run, cursor of the last sweep ('0' to
--       begin), how many jobs about, for how long a call may be under way beyond the deadline (ms)
-- A job that stands on the agenda is under way nowhere, and ends at once. Of any other a call may be
-- under way: it has its time first.
-- Returns the cursor ('0' when all were seen), how many were ended, and per job without an entry its
-- user and its state.
-- include: now
-- include: places
-- include: reach
-- include: ledger
-- include: ended_by
local history, ttl_s, run, grace = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[7])
local task, nominal, cancelled_at = unpack(redis.call('HMGET', K.run(run), 'task', 'nominal_at', 'cancelled_at'))
local deadlines = {}
local function deadline_of(share)
  deadlines[share] = deadlines[share] or tonumber(redis.call('HGET', K.shares(run), share .. ':deadline') or '0')
  return deadlines[share]
end

local page = redis.call('HSCAN', K.open(run), ARGV[5], 'COUNT', ARGV[6])
local answer, ended = { page[1], 0 }, 0
for i = 1, #page[2], 2 do
  local user, state = page[2][i], page[2][i + 1]
  local attempt, share = string.match(state, '^(%d+)|%d+|(%d+)|')
  local waits = redis.call('ZSCORE', K.agenda(), 'r|' .. run .. '|' .. user)
    or redis.call('ZSCORE', K.agenda(), 'p|' .. run .. '|' .. user)
  local deadline = deadline_of(share)
  local status, reason = ended_by(run, task, deadline, now)
  if status and (waits or now > math.min(deadline, tonumber(cancelled_at or deadline)) + grace) then
    close_jobs(run, { [user] = state })
    if status ~= 'cancelled' and attempt == '1' then note_uncalled(run, share, task, user) end
    count(run, status, reason, 1)
    add_result(task, user, unmade(run, status, reason, nominal, tonumber(attempt) - 1, now), history, ttl_s)
    ended = ended + 1
  elseif not waits then
    table.insert(answer, user)
    table.insert(answer, state)
  end
end
if ended > 0 then close_if_done(run, now) end
answer[2] = ended
return answer
