-- counted: what has been counted, and what there is of each task, at one instant; changes nothing.
-- ARGV: now, tasks ...
-- Returns what the ledgers have come to, as fields and values in turns; the same of what was mended; per task how
-- many failed jobs are kept and how many occurrences were missed; per run under way its task and how many
-- jobs of it are open.
-- include: now
local tasks = {}
for i = 2, #ARGV do
  table.insert(tasks, { redis.call('ZCARD', K.failures(ARGV[i])), redis.call('GET', K.missed(ARGV[i])) or '0' })
end
local open = {}
for _, run in ipairs(redis.call('SMEMBERS', K.running())) do
  table.insert(open, { redis.call('HGET', K.run(run), 'task') or '', redis.call('HLEN', K.open(run)) })
end
return { redis.call('HGETALL', K.totals()), redis.call('HGETALL', K.mended()), tasks, open }
