-- with: watching
-- flags: allow-oom
-- args: wait on (1) or no more (0), (id)*
-- replies: the state of each; ABSENT where there is nothing to read

local answers = {}
for at, id in ipairs(items(4, 1)) do
  local job = JOBS[id]
  if not job or hidden(job) then
    answers[at] = ABSENT
  else
    if ARGV[3] == '1' then watch(id, CALLER) else unwatch(id, CALLER) end
    answers[at] = job[STATE]
  end
end
commit()
return answers
