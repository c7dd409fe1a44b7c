-- with: watching
-- flags: allow-oom
-- args: (id, wait on (1) or no more (0))*
-- replies: the state of each; ABSENT where there is nothing to read

local answers = {}
for at, id in ipairs(T.items(3, 2)) do
  local job = T.jobs[id]
  if not job or T.hidden(job) then
    answers[at] = ABSENT
  else
    if ARGV[2 * at + 2] == '1' then T.watch(id, T.caller) else T.unwatch(id, T.caller) end
    answers[at] = job[STATE]
  end
end
T.commit()
return answers
