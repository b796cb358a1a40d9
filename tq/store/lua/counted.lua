-- counted: what there is of each task, and what was mended, at one instant; changes nothing.
-- ARGV: now, tasks ...
-- Returns what was mended and how often, in turns; per task how many failed jobs are kept and how many occurrences
-- were missed; per run under way its task and how many jobs of it are open.
local tasks = {}
for i = 2, #ARGV do
  table.insert(tasks, { redis.call('ZCARD', K.failures(ARGV[i])), redis.call('GET', K.missed(ARGV[i])) or '0' })
end
local open = {}
for _, run in ipairs(redis.call('SMEMBERS', K.running())) do
  table.insert(open, { redis.call('HGET', K.run(run), 'task') or '', redis.call('HLEN', K.open(run)) })
end
return { redis.call('HGETALL', K.mended()), tasks, open }
