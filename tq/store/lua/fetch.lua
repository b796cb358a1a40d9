-- fetch: hands a process the next messages of a queue. Of those that it could work at once it says in the same step
-- whether their attempts may be made, as `begin` would: a process that has nothing else to do need not ask.
-- ARGV: now, the process, the queue, how many messages at most, the name under which the process is woken, '' if it
--       cannot be, for how many more it must have room to be woken, how many messages it has, of all queues, and of
--       how many of these it could begin the work at once
-- Returns the messages' bodies, with false in place of one that was deleted while its id was in the queue; the ids of
-- the first of them, and what `begin` answers for these.
-- include: now
-- include: verdicts
local process, queue = ARGV[2], ARGV[3]
local ids, bodies =
  fetch(process, queue, tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]))
local begun, attempts = {}, {}
for i = 1, math.min(#ids, tonumber(ARGV[8])) do
  local job = bodies[i] and job_in(bodies[i])
  if job then
    table.insert(begun, ids[i])
    local shared = table.concat({ job.run, job.task, job.share, process, queue }, '|')
    for _, text in ipairs({ shared, ids[i], job.user, job.attempt, '0' }) do table.insert(attempts, text) end
  end
end
return { bodies, begun, #begun > 0 and verdicts(attempts, 1) or {} }
