-- retry: stalled -> available
-- hold: absent, scheduled, stalled, finished -> waiting
-- with: limits
-- args: (id)*
-- replies: the row's code; or {why, state}

local answers = {}
for at, id in ipairs(items(3, 1)) do
  local answer = ask(id, {'retry'})
  if not answer then
    touch(id)
    start_anew(JOBS[id])
    admit(id, 'retry', '')
    answer = EDGES.retry.code
  end
  answers[at] = answer
end
commit()
return answers
