def face_motion(*a): raise NotImplementedError
