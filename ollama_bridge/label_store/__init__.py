"""Soft labels on disk: computed once a teacher and row, used by every run that asks for them.

A store belongs to a teacher, a tokenizer with its chat template, the settings and the compute
type; its name is a digest of these (:class:`~ollama_bridge.label_store.info.StoreInfo`). A row is
found by its content, token ids and supervised mask, whatever corpus it stands in. ::

    labels/                       in our home folder, beside models/
      0123456789abcdef/           a store
        labels.json               StoreInfo
        about.json                where the teacher lay, which folders use the store
        open/                     the segment that is being written, if any
        89abcdef01234567/         a finished segment: never written again
          labels.bin              blocks, one a row, behind one another (see formats)
          rows.bin                (rows,) of segments.ROW: content key, size, positions, checksum
          digests.json            sha256 of both, so that nobody who links them hashes them again
      .0123456789abcdef.lock      held by who writes

A segment under construction is appended to batch by batch, labels first, each synced; so a kill
loses the batch that was being computed, and what it tore is cut off when writing goes on.

An artefact of ``label`` is a folder with hard links to ``labels.json`` and to every segment that
holds one of its rows. So it is complete by itself, has its digests checked like any other, takes
no room of its own, and stays when the store is removed.
"""
