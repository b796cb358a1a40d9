-- cancel: a run makes no more calls.
-- ARGV: now, run, reason
-- What waits for a worker or a retry ends as cancelled when it comes up, or when a sweep finds it;
-- whom the fan-out has not reached is counted as cancelled by the distribution that is called for here.
-- Returns the run's status as it was; '' if there is no such run. Only of a running one anything changes.
-- include: now
local run = ARGV[2]
local status = redis.call('HGET', K.run(run), 'status')
if status ~= 'running' then return status or '' end
if redis.call('HSETNX', K.run(run), 'cancelled_at', string.format('%d', now)) == 1 then
  redis.call('HSET', K.run(run), 'reason', ARGV[3])
end
redis.call('ZADD', K.agenda(), 'XX', now, 'd|' .. run)
return status
