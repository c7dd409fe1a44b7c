-- retry: stalled -> available
-- hold: absent, scheduled, stalled, finished -> waiting
-- with: limits
-- flags: allow-oom
-- args: (id)*
-- replies: the row's code; or {why, state}

local answers = {}
for at, id in ipairs(T.items(3, 1)) do
  local answer = T.ask(id, {'retry'})
  if not answer then
    local job = T.jobs[id]
    T.touch(id)
    T.start_anew(job)
    if job[EXPIRES] ~= '' and tonumber(job[EXPIRES]) <= T.now then job[EXPIRES] = '' end
    T.admit(id, 'retry', '')
    answer = EDGES.retry.code
  end
  answers[at] = answer
end
T.commit()
return answers
