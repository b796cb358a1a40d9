-- outcomes: how calls came out lately; changes nothing.
-- ARGV[1] now (ms)   ARGV[2] over how many seconds, up to an hour   ARGV[3..] scopes
-- Returns per scope the counts of the kinds, in the order of KINDS.
local now = tonumber(ARGV[1]) / 1000
if now == 0 then now = tonumber(redis.call('TIME')[1]) end
-- include: error_rates
local answers = {}
for i = 3, #ARGV do table.insert(answers, outcomes_of(ARGV[i], now, tonumber(ARGV[2]))) end
return answers
