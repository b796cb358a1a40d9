-- follow: a run that is not fanned out, and for which nothing on the agenda calls, is called for again.
-- ARGV: now, run, queue, id and body of the distribution's message
-- Returns 1 if it was so.
-- include: now
local run = ARGV[2]
local status, undone = unpack(redis.call('HMGET', K.run(run), 'status', 'undone'))
if status ~= 'running' or tonumber(undone or '0') <= 0 then return 0 end
if redis.call('ZADD', K.agenda(), 'NX', now, 'd|' .. run) == 0 then return 0 end
redis.call('HSET', K.agenda_messages(), 'd|' .. run, ARGV[3] .. '\n' .. ARGV[4] .. '\n' .. ARGV[5])
redis.call('HINCRBY', K.mended(), 'distributions', 1)
return 1
