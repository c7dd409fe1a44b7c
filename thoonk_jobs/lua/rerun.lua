-- rerun: finished -> available
-- hold: absent, scheduled, stalled, finished -> waiting
-- park: available -> waiting
-- release: waiting -> available
-- with: limits, lines
-- flags: allow-oom
-- args: (id, 16 digits that name this request)*
-- replies: the row's code; or {why, state, holder of its unique name}

local answers = {}
for at, id in ipairs(T.items(3, 2)) do
  local answer = T.ask_once(id, 'rerun', ARGV[2 * at + 2])
  if not answer then
    local job = T.jobs[id]
    local holder = job[UNIQUE] ~= '' and (T.names[job[UNIQUE]] or redis.call('HGET', K.names, job[UNIQUE]))
    if holder then
      answer = {'not-unique', job[STATE], holder}
    else
      T.touch(id)
      T.start_anew(job)
      job[REQUEST] = ARGV[2 * at + 2]
      -- Its home is a publisher that has not read this end yet, and hears of the next one instead.
      job[OUTCOME], job[FINISHED_AT], job[EXPIRES], job[UNHEARD] = 0, 0, '', 0
      T.admit(id, 'rerun', '')
      T.keep_result(id, '')
      answer = EDGES.rerun.code
    end
  end
  answers[at] = answer
end
T.release_freed()
return answers
