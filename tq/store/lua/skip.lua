-- skip: end what is open of a user's task, because the user is to have no more of it. Comes after `ledger`.
-- The jobs end as skipped, but for that of a run to be spared ('' or nil: of none). A call that is under
-- way is not stopped, but how it comes out is not recorded any more.
local function skip_open_jobs(task, user, reason, spared_run, now, history, ttl_s)
  for _, run in ipairs(redis.call('SMEMBERS', K.active(task))) do
    local state = redis.call('HGET', K.open(run), user)
    if state and run ~= spared_run then
      close_jobs(run, { [user] = state })
      count(run, 'skipped', reason, 1)
      local calls = tonumber(string.match(state, '^(%d+)|')) - 1
      local nominal = redis.call('HGET', K.run(run), 'nominal_at')
      add_result(task, user, unmade(run, 'skipped', reason, nominal, calls, now), history, ttl_s)
      close_if_done(run, now)
    end
  end
end
