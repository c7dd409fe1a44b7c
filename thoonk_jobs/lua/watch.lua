-- with: watching
-- flags: allow-oom
-- args: wait on (1) or no more (0), (id)*
-- replies: the state of each; ABSENT where there is nothing to read

local answers = {}
for at, id in ipairs(T.items(4, 1)) do
  local job = T.jobs[id]
  if not job or T.hidden(job) then
    answers[at] = ABSENT
  else
    if ARGV[3] == '1' then T.watch(id, T.caller) else T.unwatch(id, T.caller) end
    answers[at] = job[STATE]
  end
end
T.commit()
return answers
